// Command rich shows what a rich container is: it builds the image of a folder of examples/ from Debian's packages, runs the
// folder's pod over the CRI socket as the kubelet would, looks at its services from inside and outside, replaces the container
// by a new version, and shuts it down. Everything it makes, it removes.
package main

import (
	"context"
	"errors"
	"flag"
	"time"

	"github.com/cri-pouch/cri-pouch/integration/example"
	"github.com/cri-pouch/cri-pouch/integration/lab"
	"github.com/cri-pouch/cri-pouch/integration/stage"
)

func main() {
	images := flag.String("images", "build/rich", "folder of the root filesystems that integration/scripts/rich-images.sh builds")
	folder := flag.String("example", "examples/rich-systemd", "folder of the example")
	wait := flag.Bool("wait", false, "leave the pod running until Ctrl-C, for looking around")
	verbose := stage.LogFlag()
	stage.Main("quickstart", func(ctx context.Context, o lab.Options) error {
		e, err := example.Load(*folder)
		if err != nil {
			return err
		}
		if !*wait {
			var cancel func()
			ctx, cancel = context.WithTimeout(ctx, 3*time.Minute)
			defer cancel()
		}
		return stage.Show(ctx, o, *verbose, func(ctx context.Context, l *lab.Lab) error { return run(ctx, l, e, *images, *wait) })
	})
}

func run(ctx context.Context, l *lab.Lab, e *example.Example, images string, wait bool) error {
	s, err := newShow(l, e)
	if err != nil {
		return err
	}
	if err := s.publish(images); err != nil {
		return err
	}
	if err := l.Daemon.Start(ctx); err != nil {
		return err
	}
	stage.Step("cri-pouch serves on %s", l.Socket())
	return s.run(ctx, wait)
}

// run is the whole story, from the pod's start to its end.
func (s *show) run(ctx context.Context, wait bool) error {
	if err := s.bringUp(ctx); err != nil {
		return err
	}
	if wait {
		s.wait(ctx)
		return nil
	}
	before, err := s.look(ctx)
	if err != nil {
		return err
	}
	if err := s.printServices(ctx); err != nil {
		return err
	}
	gap, err := s.replace(ctx)
	if err != nil {
		return err
	}
	after, err := s.look(ctx)
	if err != nil {
		return err
	}
	wrong := s.printTable(before, after, gap)
	if err := s.shutDown(ctx); err != nil {
		return errors.Join(wrong, err)
	}
	return errors.Join(wrong, s.remove(ctx))
}
