// Command quickstart shows what an edit of one container's image is on a node with cri-pouch: it starts a cluster of one
// node, lets kubectl run a pod of two containers and edit the image of one, and shows what changed and what did not.
// Everything it makes, it removes.
package main

import (
	"context"
	"flag"
	"path/filepath"
	"time"

	"github.com/cri-pouch/cri-pouch/integration/kubelet/cluster"
	"github.com/cri-pouch/cri-pouch/integration/lab"
	"github.com/cri-pouch/cri-pouch/integration/stage"
)

func main() {
	kubernetes := flag.String("kubernetes", "build/kubernetes/bin", "folder of kubelet, control plane, etcd and kubectl")
	stage.Main("quickstart", func(ctx context.Context, o lab.Options) error {
		binaries, err := filepath.Abs(*kubernetes)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
		defer cancel()
		return run(ctx, cluster.Options{Lab: o, Binaries: binaries})
	})
}

func run(ctx context.Context, o cluster.Options) (err error) {
	begin := time.Now()
	c, err := cluster.New(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = stage.Close(ctx, begin, c, err) }()
	stage.Step("node %s is Ready after %.1f s: API server at %s, kubelet on unix://%s", c.Node(), time.Since(begin).Seconds(), c.Config.Host, c.Lab.Socket())
	if err := c.Lab.PushVersions("shop"); err != nil {
		return err
	}
	stage.Step("images shop:1 and shop:2 built from Debian's busybox, served on %s", c.Lab.Images.Addr)
	s := &show{c}
	if err := s.bringUp(ctx); err != nil {
		return err
	}
	before, err := s.look(ctx)
	if err != nil {
		return err
	}
	outage, err := s.edit(ctx)
	if err != nil {
		return err
	}
	after, err := s.look(ctx)
	if err != nil {
		return err
	}
	wrong := printTable(before, after, outage)
	if err := s.takeDown(ctx); err != nil {
		return err
	}
	return wrong
}
