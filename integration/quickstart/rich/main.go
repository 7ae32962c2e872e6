// Command rich shows what a rich container is: it builds the image of a folder of examples/ from Debian's packages, runs the
// folder's pod over the CRI socket as the kubelet would, looks at its services from inside and outside, replaces the container
// by a new version, and shuts it down. Everything it makes, it removes.
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

	"github.com/cri-pouch/cri-pouch/integration/example"
	"github.com/cri-pouch/cri-pouch/integration/lab"
)

func main() {
	bin := flag.String("bin", "bin", "folder of cri-pouch, containerd-shim-pouch-v2 and pouch-init")
	cniBin := flag.String("cni-bin", "build/cni/bin", "folder of the CNI plugins")
	images := flag.String("images", "build/rich", "folder of the root filesystems that integration/scripts/rich-images.sh builds")
	folder := flag.String("example", "examples/rich-systemd", "folder of the example")
	wait := flag.Bool("wait", false, "leave the pod running until Ctrl-C, for looking around")
	verbose := flag.Bool("v", false, "show the daemon's log at the end")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *bin, *cniBin, *images, *folder, *wait, *verbose); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, bin, cniBin, images, folder string, wait, verbose bool) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("root is needed for namespaces, mounts and cgroups: run it as root")
	}
	var o lab.Options
	for path, absolute := range map[string]*string{filepath.Join(bin, "cri-pouch"): &o.Binary, cniBin: &o.CNIBin} {
		if *absolute, err = filepath.Abs(path); err != nil {
			return err
		}
	}
	e, err := example.Load(folder)
	if err != nil {
		return err
	}
	if !wait {
		var cancel func()
		ctx, cancel = context.WithTimeout(ctx, 3*time.Minute)
		defer cancel()
	}
	begin := time.Now()
	l, err := lab.New(ctx, o)
	if err != nil {
		return err
	}
	defer func() {
		if verbose || err != nil {
			fmt.Fprintf(os.Stderr, "\nThe daemon's log ends with:\n%s\n", l.Daemon.LogTail(6000))
		}
		if left := l.Close(context.WithoutCancel(ctx)); left != nil {
			err = errors.Join(err, fmt.Errorf("clean up: %w", left))
		} else if err == nil {
			fmt.Printf("\nEverything is removed again. %.1f s in all.\n", time.Since(begin).Seconds())
		}
	}()
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
	step("cri-pouch serves on %s", l.Socket())
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

func step(format string, args ...any) { fmt.Printf("  · "+format+"\n", args...) }
