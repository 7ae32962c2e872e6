// Command testreport reads the output of `go test -json` and prints what a reader needs: the output of each test that
// failed, a line for each package as go test has it, and every test that was skipped with its reason. It exits with 1
// when a test, a package or a build failed, and when nothing was run at all.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
)

// event is one line of `go test -json` (cmd/test2json).
type event struct {
	Action, Package, Test, Output, ImportPath string
	Elapsed                                   float64
}

type report struct {
	output                  map[string][]string // of a test that goes on
	skipped                 []string
	passed, failed, skips   int
	packages, packagesWrong int
	w                       io.Writer
}

func main() {
	r := &report{output: map[string][]string{}, w: os.Stdout}
	if err := r.read(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
		os.Exit(1)
	}
	os.Exit(r.end())
}

func (r *report) read(in io.Reader) error {
	s := bufio.NewScanner(in)
	s.Buffer(nil, 16<<20)
	for s.Scan() {
		var e event
		if err := json.Unmarshal(s.Bytes(), &e); err != nil {
			fmt.Fprintln(r.w, s.Text()) // a build's message
			continue
		}
		r.take(e)
	}
	return s.Err()
}

func (r *report) take(e event) {
	key := e.Package + " " + e.Test
	switch {
	case e.Action == "build-output":
		fmt.Fprint(r.w, e.Output)
	case e.Action == "output" && e.Test != "":
		r.output[key] = append(r.output[key], e.Output)
	case e.Action == "output":
		// Of the packages themselves: their last line, and what a panic or TestMain printed.
		if !strings.HasPrefix(e.Output, "PASS") && !strings.HasPrefix(e.Output, "FAIL\n") && !strings.Contains(e.Output, "[no test files]") {
			fmt.Fprint(r.w, e.Output)
		}
	case e.Test != "" && (e.Action == "pass" || e.Action == "fail" || e.Action == "skip"):
		r.testEnded(e, key)
	case e.Test == "" && e.Action == "pass":
		r.packages++
	case e.Test == "" && e.Action == "fail":
		r.packages++
		r.packagesWrong++
		r.unfinished(e.Package)
	}
}

func (r *report) testEnded(e event, key string) {
	switch e.Action {
	case "pass":
		r.passed++
	case "fail":
		r.failed++
		fmt.Fprint(r.w, strings.Join(r.output[key], ""))
	case "skip":
		r.skips++
		r.skipped = append(r.skipped, fmt.Sprintf("%s %s: %s", e.Package, e.Test, reason(r.output[key])))
	}
	delete(r.output, key)
}

// unfinished prints what the tests of a package had said that a panic or a timeout cut off.
func (r *report) unfinished(pkg string) {
	for key, lines := range r.output {
		if strings.HasPrefix(key, pkg+" ") {
			fmt.Fprint(r.w, strings.Join(lines, ""))
			delete(r.output, key)
		}
	}
}

// reason is the text that the test gave to Skip.
func reason(output []string) string {
	for i := len(output) - 1; i >= 0; i-- {
		line := strings.TrimSpace(output[i])
		if line == "" || strings.HasPrefix(line, "--- SKIP") || strings.HasPrefix(line, "=== ") {
			continue
		}
		if _, text, ok := strings.Cut(line, ".go:"); ok {
			if _, text, ok = strings.Cut(text, ": "); ok {
				return text
			}
		}
		return line
	}
	return "no reason given"
}

func (r *report) end() int {
	if len(r.skipped) > 0 {
		fmt.Fprintln(r.w, "\nskipped, and why:")
		for _, s := range r.skipped {
			fmt.Fprintln(r.w, "  "+s)
		}
	}
	verdict, code := "ok", 0
	if r.failed > 0 || r.packagesWrong > 0 || r.passed+r.skips == 0 {
		verdict, code = "FAIL", 1
	}
	fmt.Fprintf(r.w, "\n%s: %d tests passed, %d failed, %d skipped in %d packages (%d failed)\n", verdict, r.passed, r.failed, r.skips, r.packages, r.packagesWrong)
	return code
}
