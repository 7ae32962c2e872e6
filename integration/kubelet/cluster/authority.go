package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// authority is the cluster's only certificate authority. It keeps its files in dir.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// pair are the files of a certificate and its key, in PEM.
type pair struct{ Cert, Key string }

func newAuthority(dir string) (*authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	a := &authority{dir: dir}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	template := certificate("cluster")
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageDigitalSignature
	a.cert = template
	if err := a.sign("ca", template, a.key); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(a.CA())
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	a.cert, err = x509.ParseCertificate(block.Bytes)
	return a, err
}

// CA is the file of the authority's certificate.
func (a *authority) CA() string { return filepath.Join(a.dir, "ca.crt") }

// issue makes a certificate for clients and servers: name and groups are the user's that it stands for, hosts the
// server's names and addresses.
func (a *authority) issue(name string, groups, hosts []string) (pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return pair{}, err
	}
	template := certificate(name)
	template.Subject.Organization = groups
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	file := fmt.Sprintf("%x", template.SerialNumber)
	p := pair{filepath.Join(a.dir, file+".crt"), filepath.Join(a.dir, file+".key")}
	return p, a.sign(file, template, key)
}

// signingKey makes the key that service account tokens are signed with.
func (a *authority) signingKey() (string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	path := filepath.Join(a.dir, "service-account.key")
	return path, writeKey(path, key)
}

func certificate(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
}

func (a *authority) sign(file string, template *x509.Certificate, key *ecdsa.PrivateKey) error {
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return err
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := os.WriteFile(filepath.Join(a.dir, file+".crt"), cert, 0o600); err != nil {
		return err
	}
	return writeKey(filepath.Join(a.dir, file+".key"), key)
}

func writeKey(path string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600)
}

// kubeconfig writes the file by which a program finds the API server at url and says who it is.
func (a *authority) kubeconfig(path, url string, p pair) error {
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: cluster, cluster: {server: %q, certificate-authority: %q}}]
users: [{name: user, user: {client-certificate: %q, client-key: %q}}]
contexts: [{name: context, context: {cluster: cluster, user: user}}]
current-context: context
`, url, a.CA(), p.Cert, p.Key)
	return os.WriteFile(path, []byte(text), 0o600)
}
