package hostile

import (
	"fmt"
	"os"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"
)

// waits are how long bystanders waited, by test and call.
var waits = waitTable{by: map[string][]time.Duration{}}

type waitTable struct {
	mu sync.Mutex
	by map[string][]time.Duration
}

func (w *waitTable) add(t *testing.T, call string, d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	key := t.Name() + "\t" + call
	w.by[key] = append(w.by[key], d)
}

// TestMain prints the table where CRI_POUCH_BENCH_HOSTILE names a file for it.
func TestMain(m *testing.M) {
	code := m.Run()
	if path := os.Getenv("CRI_POUCH_BENCH_HOSTILE"); path != "" {
		if err := os.WriteFile(path, []byte(waits.markdown()), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// markdown gives medians and maxima in milliseconds.
func (w *waitTable) markdown() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	keys := make([]string, 0, len(w.by))
	for key := range w.by {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	var b strings.Builder
	b.WriteString("| attack | call of a bystander | calls | median ms | maximum ms |\n|---|---|---|---|---|\n")
	for _, key := range keys {
		test, call, _ := strings.Cut(key, "\t")
		d := slices.Sorted(slices.Values(w.by[key]))
		fmt.Fprintf(&b, "| %s | %s | %d | %d | %d |\n", strings.TrimPrefix(test, "Test"), call, len(d), d[len(d)/2].Milliseconds(), d[len(d)-1].Milliseconds())
	}
	return b.String()
}
