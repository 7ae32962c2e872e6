package bench

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestMedian(t *testing.T) {
	for _, tc := range []struct {
		values []float64
		want   float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 3, 2}, 2.5}} {
		if got := median(tc.values); got != tc.want {
			t.Errorf("median of %v is %v", tc.values, got)
		}
	}
}

// twoRuntimes is a report of known figures.
func twoRuntimes() *Report {
	f := newFigures()
	for _, s := range []struct {
		runtime, op string
		d           time.Duration
	}{
		{"peer", opSwap, 300}, {"own", opSwap, 110}, {"own", opSwap, 90}, {"own", opSwap, 100},
		{"peer", opFreshSwap, 200}, {"own", opFreshSwap, 100}, {"peer", opRecreate, 600}, {"own", opRecreate, 400},
	} {
		f.add(s.runtime, s.op, s.d*time.Millisecond)
	}
	f.addValue("peer", "memory per pod", "MiB", 5)
	f.addValue("own", "memory per pod", "MiB", 0)
	return &Report{Rounds: 3, Runtimes: []Runtime{{"peer", "v1"}, {"own", "v2"}}, Figures: f.summary(), Machine: Machine{Cores: 2, Kernel: "6.1", Load: "0.50"}}
}

func TestReportIsATable(t *testing.T) {
	want := `2026-07-01: peer v1 beside own v2. 2 cores, Linux 6.1, cgroup v1, load 0.50 before the run. Medians of 3 rounds, of the long measurements of at most 5.

| figure | unit | peer | own | peer / own |
|---|---|---|---|---|
| in-place swap (stop, create, start) | ms | 300 | 100 | 3.00 |
| the same calls without an upgrade | ms | 200 | 100 | 2.00 |
| pod recreated | ms | 600 | 400 | 1.50 |
| memory per pod | MiB | 5.00 | 0.00 | - |
`
	if got := twoRuntimes().Markdown(time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)); got != want {
		t.Errorf("got\n%s", got)
	}
	ratios := twoRuntimes().Ratios()
	for _, part := range []string{"With peer an in-place swap takes 1.50 times", "50 % of the time", "With own an in-place swap takes 1.00 times", "25 % of the time"} {
		if !strings.Contains(ratios, part) {
			t.Errorf("%q is not in %q", part, ratios)
		}
	}
}

func TestOnlyWhatStandsBetweenTheMarksIsRewritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "doc.md")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("before\n" + beginMark + "\nold\n" + endMark + "\nafter\n")
	for _, text := range []string{"new\n", "newer\n"} {
		if err := Rewrite(path, text); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if want := "before\n" + beginMark + "\n" + text + endMark + "\nafter\n"; err != nil || string(got) != want {
			t.Errorf("got %q, %v", got, err)
		}
	}
	for _, text := range []string{"no marks", beginMark + "\nno end", endMark} {
		write(text)
		if err := Rewrite(path, "x"); err == nil {
			t.Errorf("%q was rewritten", text)
		}
		if got, _ := os.ReadFile(path); string(got) != text {
			t.Errorf("%q became %q", text, got)
		}
	}
}

func TestALogIsCheckedLineByLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	const at = "2026-01-01T00:00:00.000000000Z stdout "
	for name, tc := range map[string]struct {
		text string
		good bool
	}{
		"complete":              {at + "F 1\n" + at + "F 2\n" + at + "F 3\n", true},
		"a line in two entries": {at + "F 1\n" + at + "F 2\n" + at + "P 3\n" + at + "F \n", true},
		"one is missing":        {at + "F 1\n" + at + "F 3\n", false},
		"the end is missing":    {at + "F 1\n" + at + "F 2\n", false},
		"one is there twice":    {at + "F 1\n" + at + "F 1\n" + at + "F 2\n" + at + "F 3\n", false},
		"malformed":             {"1\n2\n3\n", false},
		"empty":                 {"", false},
	} {
		if err := os.WriteFile(path, []byte(tc.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := readNumbers(path, 3); (err == nil) != tc.good {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := readNumbers(path+"absent", 1); err == nil {
		t.Error("an absent log is complete")
	}
}

func TestOptionsThatMeasureNothingAreRefused(t *testing.T) {
	for _, o := range []Options{{}, {Rounds: 1, Burst: 1}, {Rounds: -1, Burst: 1, Lines: 1}, {Rounds: 1, Lines: 1}} {
		if _, err := Run(t.Context(), o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
}
