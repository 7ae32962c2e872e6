// Package cluster runs a Kubernetes cluster of one node on this machine: etcd, kube-apiserver, kube-controller-manager,
// kube-scheduler and the kubelet, as released, over a cri-pouch of its own (package lab). Everything has folders,
// certificates, a bridge and cgroups of its own, and goes with Close, also what the kubelet leaves on the machine.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/cri-pouch/cri-pouch/integration/lab"
	"github.com/cri-pouch/cri-pouch/internal/undo"
)

// Options say what a Cluster is made of.
type Options struct {
	Lab      lab.Options
	Binaries string // folder of kubelet, kube-apiserver, kube-controller-manager, kube-scheduler and etcd
	Kubelet  KubeletOptions
	DiskSize int64 // bytes of a filesystem for the runtime's root; 0: it shares the machine's
}

// Cluster is a running cluster of one node.
type Cluster struct {
	Options
	Lab    *lab.Lab
	Dir    string     // folder of everything of Kubernetes
	IP     netip.Addr // of the node, on its own bridge; the API server listens there too
	Config *rest.Config
	Client *kubernetes.Clientset
	Disk   string // where the runtime's filesystem is mounted, if it has its own

	authority *authority
	kubelet   *program
	logs      []string
	undo      undo.Stack
}

// New makes everything and returns when the node is Ready. On an error nothing is left behind; its text has the ends of
// the programs' logs. Only one cluster exists on a machine at a time, since a kubelet takes some paths for its own
// whatever it is told: New waits until another one is gone.
func New(ctx context.Context, o Options) (_ *Cluster, err error) {
	c := &Cluster{Options: o}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.tails(), c.Close(ctx))
		}
	}()
	if err := c.takeMachine(ctx); err != nil {
		return c, err
	}
	if o.DiskSize > 0 {
		if err := c.makeDisk(ctx, o.DiskSize); err != nil {
			return c, fmt.Errorf("make a disk for the runtime: %w", err)
		}
	}
	if c.Lab, err = lab.New(ctx, c.Options.Lab); err != nil {
		return c, fmt.Errorf("make a lab: %w", err)
	}
	c.undo.Add("close the lab", c.Lab.Close)
	c.Dir, c.IP = filepath.Join(c.Lab.Dir, "kubernetes"), c.Lab.Network.Gateway()
	if err := os.Mkdir(c.Dir, 0o711); err != nil {
		return c, err
	}
	if err := c.makeBridge(); err != nil {
		return c, err
	}
	if err := c.makeCgroups(); err != nil {
		return c, err
	}
	if err := c.Lab.Daemon.Start(ctx); err != nil {
		return c, err
	}
	c.logs = append(c.logs, c.Lab.Daemon.Log)
	if c.authority, err = newAuthority(filepath.Join(c.Dir, "pki")); err != nil {
		return c, fmt.Errorf("make certificates: %w", err)
	}
	if err := c.startControlPlane(ctx); err != nil {
		return c, err
	}
	if err := c.StartKubelet(ctx); err != nil {
		return c, err
	}
	return c, c.AwaitReady(ctx, time.Time{})
}

// Close ends every program and removes everything. Its error names what would not go.
func (c *Cluster) Close(ctx context.Context) error { return c.undo.Run(ctx, 3*time.Minute) }

// Node is the name of the cluster's node.
func (c *Cluster) Node() string { return c.Lab.Name }

// tails gives the ends of all logs as an error, for one who has nothing else to go by.
func (c *Cluster) tails() error {
	var errs []error
	for _, log := range c.logs {
		errs = append(errs, fmt.Errorf("%s ends with:\n%s", filepath.Base(log), Tail(log, 3000)))
	}
	return errors.Join(errs...)
}

// Tail gives the last bytes of a file, or why it cannot be read.
func Tail(path string, bytes int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-bytes):])
}
