// Command labd keeps a lab open until it is interrupted: a daemon on a throwaway root with a network, and a registry with
// small images, for trying things by hand or measuring them. What ran on it is removed with it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"

	"github.com/cri-pouch/cri-pouch/integration/lab"
	"github.com/cri-pouch/cri-pouch/integration/stage"
)

func main() {
	systemd := flag.Bool("systemd", false, "systemd makes the cgroups")
	stage.Main("labd", func(ctx context.Context, o lab.Options) error {
		o.Systemd = *systemd
		return run(ctx, o)
	})
}

func run(ctx context.Context, o lab.Options) (err error) {
	l, err := lab.New(ctx, o)
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
