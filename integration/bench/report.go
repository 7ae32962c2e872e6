package bench

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"time"
)

// Report is the outcome of a run.
type Report struct {
	Lab      string // name that everything which was made carried
	Machine  Machine
	Rounds   int
	Burst    int
	Runtimes []Runtime // the peer first
	Figures  []Figure
}

// Runtime is one that was measured.
type Runtime struct{ Name, Version string }

// Figure is one line of the report: medians and numbers of samples by runtime.
type Figure struct {
	Name, Unit string // unit "": a count
	Medians    map[string]float64
	Samples    map[string]int
}

// Markdown gives the report as text for the documentation, with the day it was made.
func (r *Report) Markdown(at time.Time) string {
	var b strings.Builder
	var names []string
	for _, x := range r.Runtimes {
		names = append(names, x.Name+" "+x.Version)
	}
	cgroups := "v1"
	if r.Machine.CgroupV2 {
		cgroups = "v2"
	}
	fmt.Fprintf(&b, "%s: %s. %d cores, Linux %s, cgroup %s, load %s before the run. Medians of %d rounds, of the long measurements of at most %d.\n\n",
		at.UTC().Format(time.DateOnly), strings.Join(names, " beside "), r.Machine.Cores, r.Machine.Kernel, cgroups, r.Machine.Load, r.Rounds, LongRounds)
	b.WriteString("| figure | unit |")
	for _, x := range r.Runtimes {
		fmt.Fprintf(&b, " %s |", x.Name)
	}
	pair := len(r.Runtimes) == 2
	if pair {
		fmt.Fprintf(&b, " %s / %s |", r.Runtimes[0].Name, r.Runtimes[1].Name)
	}
	b.WriteString("\n|---|---|" + strings.Repeat("---|", len(r.Runtimes)))
	if pair {
		b.WriteString("---|")
	}
	b.WriteString("\n")
	for _, f := range r.Figures {
		fmt.Fprintf(&b, "| %s | %s |", f.Name, f.Unit)
		for _, x := range r.Runtimes {
			fmt.Fprintf(&b, " %s |", digits(f.Medians[x.Name]))
		}
		if pair {
			fmt.Fprintf(&b, " %s |", ratio(f.Medians[r.Runtimes[0].Name], f.Medians[r.Runtimes[1].Name]))
		}
		b.WriteString("\n")
	}
	return b.String()
}

// Ratios gives the quotients of figures that only mean something together, by runtime.
func (r *Report) Ratios() string {
	var b strings.Builder
	for _, x := range r.Runtimes {
		upgrade, fresh, pod := r.median(opSwap, x.Name), r.median(opFreshSwap, x.Name), r.median(opRecreate, x.Name)
		if fresh > 0 && pod > 0 {
			fmt.Fprintf(&b, "With %s an in-place swap takes %s times as long as the same calls without an upgrade, and %.0f %% of the time in which the pod is made anew.\n",
				x.Name, digits(upgrade/fresh), 100*upgrade/pod)
		}
	}
	return b.String()
}

func (r *Report) median(figure, runtime string) float64 {
	for _, f := range r.Figures {
		if f.Name == figure {
			return f.Medians[runtime]
		}
	}
	return 0
}

// ratio is "-" where the divisor is too small to mean anything.
func ratio(a, b float64) string {
	if b < 0.005 {
		return "-"
	}
	return digits(a / b)
}

// digits prints a figure with as many places as it has meaning.
func digits(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// The lines of a document between which the table stands.
const (
	beginMark = "<!-- make bench writes from here -->"
	endMark   = "<!-- to here -->"
)

// Rewrite puts text between the two marks of a document, and leaves the rest as it is.
func Rewrite(path, text string) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, begins := bytes.Cut(old, []byte(beginMark+"\n"))
	_, after, ends := bytes.Cut(rest, []byte(endMark))
	if !begins || !ends {
		return fmt.Errorf("%s has no lines %q and %q to write between", path, beginMark, endMark)
	}
	return os.WriteFile(path, []byte(string(before)+beginMark+"\n"+text+endMark+string(after)), 0o644)
}
