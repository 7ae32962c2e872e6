// Command benchmark measures cri-pouch beside containerd (package bench) and prints the table, or writes it into a document.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/cri-pouch/cri-pouch/integration/bench"
	"github.com/cri-pouch/cri-pouch/integration/lab"
	"github.com/cri-pouch/cri-pouch/integration/stage"
)

func main() {
	var o options
	flag.StringVar(&o.peers, "peers", "build/peers", "folder in which containerd and runc are kept; they are built where they are missing")
	flag.BoolVar(&o.alone, "alone", false, "measure without containerd")
	flag.StringVar(&o.before, "before", "", "folder of another build of cri-pouch to measure in the same run")
	flag.IntVar(&o.rounds, "rounds", bench.FullRounds, "rounds of each measurement")
	flag.IntVar(&o.burst, "pods", bench.FullBurst, "pods at once in a burst, and for memory and lists")
	flag.IntVar(&o.lines, "lines", bench.FullLines, "lines that the log measurement writes")
	flag.StringVar(&o.only, "only", "", "beginning of the name of the measurements to run, as in pulls")
	flag.StringVar(&o.document, "write", "", "document whose table is written anew")
	stage.Main("benchmark", func(ctx context.Context, l lab.Options) error { return run(ctx, l, o) })
}

type options struct {
	peers, document, only, before string
	alone                         bool
	rounds, burst, lines          int
}

func run(ctx context.Context, l lab.Options, o options) error {
	if o.only != "" && o.document != "" {
		return errors.New("-only measures a part, -write wants the whole: give one of them")
	}
	peers, err := filepath.Abs(o.peers)
	if err != nil {
		return err
	}
	began := time.Now()
	say := func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "  · %5.1f s  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}
	settings := bench.Options{Binary: l.Binary, CNIBin: l.CNIBin, Rounds: o.rounds, Burst: o.burst, Lines: o.lines, Only: o.only, Say: say}
	if o.before != "" {
		if settings.Before, err = filepath.Abs(filepath.Join(o.before, filepath.Base(l.Binary))); err != nil {
			return err
		}
	}
	if !o.alone {
		settings.Peers = peers
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
