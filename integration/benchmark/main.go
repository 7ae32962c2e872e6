// Command benchmark measures cri-pouch beside containerd (package bench) and prints the table, or writes it into a document.
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

	"github.com/cri-pouch/cri-pouch/integration/bench"
)

func main() {
	var o options
	flag.StringVar(&o.bin, "bin", "bin", "folder of cri-pouch, containerd-shim-pouch-v2 and pouch-init")
	flag.StringVar(&o.cniBin, "cni-bin", "build/cni/bin", "folder of the CNI plugins")
	flag.StringVar(&o.peers, "peers", "build/peers", "folder in which containerd and runc are kept; they are built where they are missing")
	flag.BoolVar(&o.alone, "alone", false, "measure cri-pouch alone")
	flag.IntVar(&o.rounds, "rounds", bench.FullRounds, "rounds of each measurement")
	flag.IntVar(&o.burst, "pods", bench.FullBurst, "pods at once in a burst, and for memory and lists")
	flag.IntVar(&o.lines, "lines", bench.FullLines, "lines that the log measurement writes")
	flag.StringVar(&o.only, "only", "", "beginning of the name of the measurements to run, as in pulls")
	flag.StringVar(&o.document, "write", "", "document whose table is written anew")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "benchmark:", err)
		os.Exit(1)
	}
}

type options struct {
	bin, cniBin, peers, document, only string
	alone                              bool
	rounds, burst, lines               int
}

func run(ctx context.Context, o options) error {
	if os.Geteuid() != 0 {
		return errors.New("root is needed for namespaces, mounts and cgroups: run it as root")
	}
	if o.only != "" && o.document != "" {
		return errors.New("-only measures a part, -write wants the whole: give one of them")
	}
	var paths []string
	for _, p := range []string{filepath.Join(o.bin, "cri-pouch"), o.cniBin, o.peers} {
		p, err := filepath.Abs(p)
		if err != nil {
			return err
		}
		paths = append(paths, p)
	}
	began := time.Now()
	say := func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "  · %5.1f s  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}
	settings := bench.Options{Binary: paths[0], CNIBin: paths[1], Rounds: o.rounds, Burst: o.burst, Lines: o.lines, Only: o.only, Say: say}
	if !o.alone {
		settings.Peers = paths[2]
		if err := bench.BuildPeers(ctx, settings.Peers, say); err != nil {
			return err
		}
	}
	report, err := bench.Run(ctx, settings)
	if err != nil {
		return err
	}
	text := report.Markdown(time.Now()) + "\n" + report.Ratios()
	fmt.Println(text)
	if o.document == "" {
		return nil
	}
	return bench.Rewrite(o.document, text)
}
