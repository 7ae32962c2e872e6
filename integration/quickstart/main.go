// Command quickstart shows in one go what cri-pouch is for: it runs a pod with two containers over the CRI socket,
// replaces one of them by a new image, and shows what changed and what did not. Everything it makes, it removes.
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

	"github.com/cri-pouch/cri-pouch/integration/lab"
)

func main() {
	bin := flag.String("bin", "bin", "folder of cri-pouch, containerd-shim-pouch-v2 and pouch-init")
	cniBin := flag.String("cni-bin", "build/cni/bin", "folder of the CNI plugins")
	verbose := flag.Bool("v", false, "show the daemon's log at the end")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *bin, *cniBin, *verbose); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, bin, cniBin string, verbose bool) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("root is needed for namespaces, mounts and cgroups: run it as root")
	}
	binary, err := filepath.Abs(filepath.Join(bin, "cri-pouch"))
	if err != nil {
		return err
	}
	plugins, err := filepath.Abs(cniBin)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	begin := time.Now()
	l, err := lab.New(ctx, lab.Options{Binary: binary, CNIBin: plugins})
	if err != nil {
		return err
	}
	defer func() {
		if verbose || err != nil {
			fmt.Fprintf(os.Stderr, "\nThe daemon's log ends with:\n%s\n", l.Daemon.LogTail(6000))
		}
		if left := l.Close(ctx); left != nil {
			err = errors.Join(err, fmt.Errorf("clean up: %w", left))
		} else if err == nil {
			fmt.Printf("\nEverything is removed again. %.1f s in all.\n", time.Since(begin).Seconds())
		}
	}()
	if err := l.PushVersions("shop"); err != nil {
		return err
	}
	step("images shop:1 and shop:2 built from Debian's busybox, served on %s", l.Images.Addr)
	if err := l.Daemon.Start(ctx); err != nil {
		return err
	}
	step("cri-pouch serves on %s", l.Socket())
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

func step(format string, args ...any) { fmt.Printf("  · "+format+"\n", args...) }
