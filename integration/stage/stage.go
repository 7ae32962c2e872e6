// Package stage is what the commands around a lab share: their flags, what they need, their end on Ctrl-C, and for those that
// show something, the telling of each step and of the clean-up.
package stage

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

// Main parses the command line and runs a command with what it says of the programs: Binary and CNIBin, as absolute paths. A
// command that has more flags defines them before. ctx ends with SIGINT and SIGTERM. An error is printed after the command's
// name, and the process exits with 1.
func Main(name string, run func(ctx context.Context, o lab.Options) error) {
	bin := flag.String("bin", "bin", "folder of cri-pouch, containerd-shim-pouch-v2 and pouch-init")
	cniBin := flag.String("cni-bin", "build/cni/bin", "folder of the CNI plugins")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := prepare(ctx, *bin, *cniBin, run); err != nil {
		fmt.Fprintln(os.Stderr, name+":", err)
		os.Exit(1)
	}
}

func prepare(ctx context.Context, bin, cniBin string, run func(context.Context, lab.Options) error) error {
	if os.Geteuid() != 0 {
		return errors.New("root is needed for namespaces, mounts and cgroups: run it as root")
	}
	var o lab.Options
	var err error
	if o.Binary, err = filepath.Abs(filepath.Join(bin, "cri-pouch")); err != nil {
		return err
	}
	if o.CNIBin, err = filepath.Abs(cniBin); err != nil {
		return err
	}
	return run(ctx, o)
}

// LogFlag defines the flag that Show's verbose comes from.
func LogFlag() *bool { return flag.Bool("v", false, "show the daemon's log at the end") }

// Show makes a lab, runs something in it, and removes it. The end of the daemon's log is printed if that failed, or if verbose.
func Show(ctx context.Context, o lab.Options, verbose bool, run func(ctx context.Context, l *lab.Lab) error) (err error) {
	begin := time.Now()
	l, err := lab.New(ctx, o)
	if err != nil {
		return err
	}
	defer func() {
		if verbose || err != nil {
			fmt.Fprintf(os.Stderr, "\nThe daemon's log ends with:\n%s\n", l.Daemon.LogTail(6000))
		}
		err = Close(ctx, begin, l, err)
	}()
	return run(ctx, l)
}

// Close removes what something was shown with since begin, and tells so if all went well. It gives the error of the showing,
// which is nil if that went well, joined with that of the clean-up.
func Close(ctx context.Context, begin time.Time, what interface{ Close(context.Context) error }, err error) error {
	if left := what.Close(ctx); left != nil {
		return errors.Join(err, fmt.Errorf("clean up: %w", left))
	}
	if err == nil {
		fmt.Printf("\nEverything is removed again. %.1f s in all.\n", time.Since(begin).Seconds())
	}
	return err
}

// Step tells one step of a show.
func Step(format string, args ...any) { fmt.Printf("  · "+format+"\n", args...) }
