package lab

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// RegistryOptions say how the registry is reached. With User it asks for credentials: basic ones, or with Bearer a token
// that its own token service gives for them.
type RegistryOptions struct {
	TLS            bool
	User, Password string
	Bearer         bool
}

// Registry is a container registry in memory on a loopback port.
type Registry struct {
	RegistryOptions
	Addr string // host:port
	CA   []byte // PEM, with TLS

	store   http.Handler
	blobs   *blobs
	server  *http.Server
	fault   atomic.Pointer[Fault]
	mu      sync.Mutex
	served  []string
	granted string
}

// Fault answers a request in the registry's place and says so; with false the registry answers itself.
type Fault func(w http.ResponseWriter, r *http.Request, registry http.Handler) bool

// NewRegistry starts a registry without images.
func NewRegistry(o RegistryOptions) (*Registry, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &Registry{RegistryOptions: o, Addr: l.Addr().String(), granted: fmt.Sprintf("token-%d", time.Now().UnixNano())}
	r.blobs = newBlobs()
	r.store = registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithBlobHandler(r.blobs))
	r.server = &http.Server{Handler: r, ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: time.Minute}
	// A kept connection would look like a descriptor that the daemon has leaked.
	r.server.SetKeepAlivesEnabled(false)
	if o.TLS {
		cert, ca, err := selfSigned()
		if err != nil {
			return nil, err
		}
		r.CA = ca
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12})
	}
	go func() { _ = r.server.Serve(l) }()
	return r, nil
}

// URL is the registry's address with its scheme.
func (r *Registry) URL() string {
	if r.TLS {
		return "https://" + r.Addr
	}
	return "http://" + r.Addr
}

// Close ends the registry and every connection to it.
func (r *Registry) Close() error { return r.server.Close() }

// SetFault makes f see every request first; nil takes it away.
func (r *Registry) SetFault(f Fault) {
	if f == nil {
		r.fault.Store(nil)
		return
	}
	r.fault.Store(&f)
}

// Served gives the requests so far as "METHOD path", in their order.
func (r *Registry) Served() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.served...)
}

// ServeHTTP notes the request, checks credentials and hands over to the store or to the fault.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	r.served = append(r.served, req.Method+" "+req.URL.Path)
	r.mu.Unlock()
	if r.User != "" && !r.admit(w, req) {
		return
	}
	if f := r.fault.Load(); f != nil && (*f)(w, req, r.store) {
		return
	}
	r.store.ServeHTTP(w, req)
}

// admit says whether req may pass; where not it has been answered.
func (r *Registry) admit(w http.ResponseWriter, req *http.Request) bool {
	user, password, basic := req.BasicAuth()
	known := basic && user == r.User && password == r.Password
	if req.URL.Path == "/token" {
		if !known {
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED"}]}`, http.StatusUnauthorized)
			return false
		}
		fmt.Fprintf(w, `{"token":%q,"expires_in":300}`, r.granted)
		return false
	}
	if r.Bearer {
		known = req.Header.Get("Authorization") == "Bearer "+r.granted
	}
	if known {
		return true
	}
	challenge := `Basic realm="lab"`
	if r.Bearer {
		challenge = fmt.Sprintf(`Bearer realm="%s/token",service="lab"`, r.URL())
	}
	w.Header().Set("WWW-Authenticate", challenge)
	http.Error(w, `{"errors":[{"code":"UNAUTHORIZED"}]}`, http.StatusUnauthorized)
	return false
}

// inProcess carries pushes to the store without a socket, so past credentials and faults.
type inProcess struct{ store http.Handler }

// RoundTrip answers from the store.
func (t inProcess) RoundTrip(req *http.Request) (*http.Response, error) {
	rec := httptest.NewRecorder()
	served := req.Clone(req.Context())
	if served.Body == nil {
		served.Body = http.NoBody // a server's request always has one
	}
	t.store.ServeHTTP(rec, served)
	res := rec.Result()
	res.Request = req
	return res, nil
}

// Push stores an image, or an index, under name:tag.
func (r *Registry) Push(nameTag string, img v1.Image) error {
	ref, err := r.reference(nameTag)
	if err != nil {
		return err
	}
	if err := r.blobs.lend(img); err != nil {
		return err
	}
	return remote.Write(ref, img, remote.WithTransport(inProcess{r.store}))
}

// PushIndex stores an image index under name:tag.
func (r *Registry) PushIndex(nameTag string, index v1.ImageIndex) error {
	ref, err := r.reference(nameTag)
	if err != nil {
		return err
	}
	return remote.WriteIndex(ref, index, remote.WithTransport(inProcess{r.store}))
}

func (r *Registry) reference(nameTag string) (name.Reference, error) {
	return name.ParseReference(r.Addr+"/"+nameTag, name.Insecure)
}

// WriteHosts writes the hosts.toml that leads domain to this registry, below dir.
func (r *Registry) WriteHosts(dir, domain string) error {
	folder := filepath.Join(dir, domain)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "server = %q\n\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", r.URL(), r.URL())
	if r.TLS {
		ca := filepath.Join(folder, "ca.pem")
		if err := os.WriteFile(ca, r.CA, 0o644); err != nil {
			return err
		}
		fmt.Fprintf(&b, "  ca = %q\n", ca)
	}
	return os.WriteFile(filepath.Join(folder, "hosts.toml"), []byte(b.String()), 0o644)
}

// selfSigned makes a certificate for 127.0.0.1 that is its own authority.
func selfSigned() (tls.Certificate, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "lab"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

func machineArch() string { return goruntime.GOARCH }
