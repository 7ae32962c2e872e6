package cluster

import (
	"context"
	"fmt"
	"net"
	"path/filepath"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// serviceRange is where services have their addresses; nothing routes them here.
const serviceRange = "172.31.240.0/24"

const apiPort = "6443"

// controllers are the ones that pods, deployments and nodes need: each more costs time at the start.
const controllers = "deployment-controller,replicaset-controller,namespace-controller,serviceaccount-controller," +
	"root-ca-certificate-publisher-controller,garbage-collector-controller,node-lifecycle-controller,taint-eviction-controller," +
	"pod-garbage-collector-controller"

// startControlPlane starts etcd and the API server, then, when that is ready, the two that work on it.
func (c *Cluster) startControlPlane(ctx context.Context) error {
	etcd, err := c.startEtcd()
	if err != nil {
		return err
	}
	key, err := c.authority.signingKey()
	if err != nil {
		return err
	}
	if err := c.startAPIServer(ctx, etcd, key); err != nil {
		return err
	}
	for _, p := range []struct {
		name string
		args []string
	}{
		{"kube-controller-manager", []string{"--controllers=" + controllers, "--service-account-private-key-file=" + key,
			"--root-ca-file=" + c.authority.CA(), "--use-service-account-credentials", "--concurrent-gc-syncs=4"}},
		{"kube-scheduler", nil},
	} {
		config, err := c.kubeconfigFor(p.name, "system:"+p.name, nil)
		if err != nil {
			return err
		}
		args := append(p.args, "--kubeconfig="+config, "--leader-elect=false", "--secure-port=0", "--bind-address="+c.IP.String())
		if _, err := c.start(p.name, args...); err != nil {
			return err
		}
	}
	return nil
}

// startEtcd starts etcd on loopback and gives its address.
func (c *Cluster) startEtcd() (string, error) {
	var urls [2]string
	for i := range urls {
		port, err := freePort()
		if err != nil {
			return "", err
		}
		urls[i] = fmt.Sprintf("http://127.0.0.1:%d", port)
	}
	// What is in it need not outlive the machine's power.
	_, err := c.start("etcd", "--data-dir="+filepath.Join(c.Dir, "etcd"), "--unsafe-no-fsync", "--log-level=warn", "--name=cluster",
		"--listen-client-urls="+urls[0], "--advertise-client-urls="+urls[0],
		"--listen-peer-urls="+urls[1], "--initial-advertise-peer-urls="+urls[1], "--initial-cluster=cluster="+urls[1])
	return urls[0], err
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// startAPIServer starts the API server and waits until it is ready; the client is there from then on.
func (c *Cluster) startAPIServer(ctx context.Context, etcd, signingKey string) error {
	server, err := c.authority.issue("kube-apiserver", nil, []string{c.IP.String(), "kubernetes.default.svc"})
	if err != nil {
		return err
	}
	client, err := c.authority.issue("kube-apiserver-kubelet-client", []string{"system:masters"}, nil)
	if err != nil {
		return err
	}
	admin, err := c.authority.issue("admin", []string{"system:masters"}, nil)
	if err != nil {
		return err
	}
	c.Config = &rest.Config{
		Host: c.url(), QPS: -1,
		TLSClientConfig: rest.TLSClientConfig{CAFile: c.authority.CA(), CertFile: admin.Cert, KeyFile: admin.Key},
	}
	if c.Client, err = kubernetes.NewForConfig(c.Config); err != nil {
		return err
	}
	if err := c.authority.kubeconfig(c.Kubeconfig(), c.url(), admin); err != nil {
		return err
	}
	p, err := c.start("kube-apiserver",
		"--etcd-servers="+etcd, "--bind-address="+c.IP.String(), "--advertise-address="+c.IP.String(), "--secure-port="+apiPort,
		"--tls-cert-file="+server.Cert, "--tls-private-key-file="+server.Key, "--client-ca-file="+c.authority.CA(),
		"--kubelet-client-certificate="+client.Cert, "--kubelet-client-key="+client.Key, "--kubelet-certificate-authority="+c.authority.CA(),
		"--kubelet-preferred-address-types=InternalIP",
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file="+signingKey,
		"--service-account-signing-key-file="+signingKey, "--service-cluster-ip-range="+serviceRange,
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
		"--enable-priority-and-fairness=false", "--audit-log-path=", "--profiling=false")
	if err != nil {
		return err
	}
	return p.awaits(ctx, "the API server is ready", func(ctx context.Context) error {
		return c.Client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	})
}

func (c *Cluster) url() string { return "https://" + net.JoinHostPort(c.IP.String(), apiPort) }

// Kubeconfig is the file by which kubectl reaches the cluster with all rights.
func (c *Cluster) Kubeconfig() string { return filepath.Join(c.Dir, "admin.kubeconfig") }

// kubeconfigFor writes the file by which a program reaches the API server as this user.
func (c *Cluster) kubeconfigFor(program, user string, groups []string) (string, error) {
	p, err := c.authority.issue(user, groups, nil)
	if err != nil {
		return "", err
	}
	path := filepath.Join(c.Dir, program+".kubeconfig")
	return path, c.authority.kubeconfig(path, c.url(), p)
}
