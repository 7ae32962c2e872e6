// Command quickstart shows what an edit of one container's image is on a node with cri-pouch: it starts a cluster of one
// node, lets kubectl run a pod of two containers and edit the image of one, and shows what changed and what did not.
// Everything it makes, it removes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/cri-pouch/cri-pouch/integration/kubelet/cluster"
)

func main() {
	bin := flag.String("bin", "bin", "folder of cri-pouch, containerd-shim-pouch-v2 and pouch-init")
	cniBin := flag.String("cni-bin", "build/cni/bin", "folder of the CNI plugins")
	kubernetes := flag.String("kubernetes", "build/kubernetes/bin", "folder of kubelet, control plane, etcd and kubectl")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *bin, *cniBin, *kubernetes); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, bin, cniBin, kubernetes string) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("root is needed for namespaces, mounts and cgroups: run it as root")
	}
	var o cluster.Options
	for path, absolute := range map[string]*string{filepath.Join(bin, "cri-pouch"): &o.Lab.Binary, cniBin: &o.Lab.CNIBin, kubernetes: &o.Binaries} {
		if *absolute, err = filepath.Abs(path); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	begin := time.Now()
	c, err := cluster.New(ctx, o)
	if err != nil {
		return err
	}
	defer func() {
		if left := c.Close(ctx); left != nil {
			err = errors.Join(err, fmt.Errorf("clean up: %w", left))
		} else if err == nil {
			fmt.Printf("\nEverything is removed again. %.1f s in all.\n", time.Since(begin).Seconds())
		}
	}()
	step("node %s is Ready after %.1f s: API server at %s, kubelet on unix://%s", c.Node(), time.Since(begin).Seconds(), c.Config.Host, c.Lab.Socket())
	if err := c.Lab.PushVersions("shop"); err != nil {
		return err
	}
	step("images shop:1 and shop:2 built from Debian's busybox, served on %s", c.Lab.Images.Addr)
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

func step(format string, args ...any) { fmt.Printf("  · "+format+"\n", args...) }
