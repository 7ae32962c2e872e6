// Command labd keeps a lab open until it is interrupted: a daemon on a throwaway root with a network, and a registry with
// small images, for trying things by hand or measuring them. What ran on it is removed with it.
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

	"github.com/cri-pouch/cri-pouch/integration/lab"
)

func main() {
	bin := flag.String("bin", "bin", "folder of cri-pouch, containerd-shim-pouch-v2 and pouch-init")
	cniBin := flag.String("cni-bin", "build/cni/bin", "folder of the CNI plugins")
	systemd := flag.Bool("systemd", false, "systemd makes the cgroups")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *bin, *cniBin, *systemd); err != nil {
		fmt.Fprintln(os.Stderr, "labd:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, bin, cniBin string, systemd bool) (err error) {
	binary, err := filepath.Abs(filepath.Join(bin, "cri-pouch"))
	if err != nil {
		return err
	}
	plugins, err := filepath.Abs(cniBin)
	if err != nil {
		return err
	}
	l, err := lab.New(ctx, lab.Options{Binary: binary, CNIBin: plugins, Systemd: systemd})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close(context.WithoutCancel(ctx))) }()
	if err := l.PushVersions("busybox"); err != nil {
		return err
	}
	if err := l.Daemon.Start(ctx); err != nil {
		return err
	}
	fmt.Printf("socket         unix://%s\ncgroup parent  %s\nimages         %s %s\ndaemon's log   %s\n",
		l.Socket(), l.CgroupParent(), l.Ref("busybox:1"), l.Ref("busybox:2"), l.Daemon.Log)
	fmt.Println("Ctrl-C ends it and removes everything.")
	select {
	case <-ctx.Done():
		return nil
	case <-l.Daemon.Gone():
		return fmt.Errorf("the daemon ended: %s", l.Daemon.ExitState())
	}
}
