package shim

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/cgroups"
)

func TestMemoryHighGoesDownBeforeTheLimit(t *testing.T) {
	for name, c := range map[string]struct {
		now, want int64
		first     bool
	}{
		"down": {200, 100, true}, "from no limit": {0, 100, true}, "from unlimited": {-1, 100, true},
		"up": {100, 200, false}, "as it is": {100, 100, false}, "to no limit": {100, -1, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, highFile)
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			want := &cgroups.Resources{Memory: c.want, Unified: map[string]string{highFile: "80"}}
			if err := lowerHighFirst(dir, &cgroups.Resources{Memory: c.now}, want); err != nil {
				t.Fatal(err)
			}
			if b, err := os.ReadFile(file); err != nil || (string(b) == "80") != c.first {
				t.Errorf("memory.high is %q, %v", b, err)
			}
		})
	}
}
