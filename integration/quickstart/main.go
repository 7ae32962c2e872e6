// Command quickstart shows in one go what cri-pouch is for: it runs a pod with two containers over the CRI socket,
// replaces one of them by a new image, and shows what changed and what did not. Everything it makes, it removes.
package main

import (
	"context"
	"time"

	"github.com/cri-pouch/cri-pouch/integration/lab"
	"github.com/cri-pouch/cri-pouch/integration/stage"
)

func main() {
	verbose := stage.LogFlag()
	stage.Main("quickstart", func(ctx context.Context, o lab.Options) error {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
		defer cancel()
		return stage.Show(ctx, o, *verbose, run)
	})
}

func run(ctx context.Context, l *lab.Lab) error {
	if err := l.PushVersions("shop"); err != nil {
		return err
	}
	stage.Step("images shop:1 and shop:2 built from Debian's busybox, served on %s", l.Images.Addr)
	if err := l.Daemon.Start(ctx); err != nil {
		return err
	}
	stage.Step("cri-pouch serves on %s", l.Socket())
	s := &show{lab: l}
	if err := s.bringUp(ctx); err != nil {
		return err
	}
	before, err := s.look(ctx)
	if err != nil {
		return err
	}
	outage, err := s.replace(ctx)
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
