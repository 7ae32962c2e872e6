package server

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSizes(t *testing.T) {
	for text, want := range map[string]Size{"0B": 0, "1B": 1, "1023B": 1023, "1KiB": 1 << 10, "1536MiB": 1536 << 20, "1GiB": 1 << 30, "7TiB": 7 << 40} {
		var s Size
		if err := s.UnmarshalText([]byte(text)); err != nil || s != want || s.String() != text {
			t.Errorf("%s is %d (%s), %v; want %d", text, s, s, err, want)
		}
	}
	for _, text := range []string{"", "1", "GiB", "1GB", "1 GiB", "1.5GiB", "-1GiB", "1gib", "0x1GiB", "9223372036854775807KiB", "8388608TiB"} {
		var s Size
		if err := s.UnmarshalText([]byte(text)); err == nil || !strings.Contains(err.Error(), "1GiB") {
			t.Errorf("%q is taken as %d, %v", text, s, err)
		}
	}
}

func TestSizesInTheConfiguration(t *testing.T) {
	for value, mention := range map[string]string{`"1KiB"`: "out of range", `"2TiB"`: "out of range", `"much"`: "no size", `1073741824`: `a size as in "1GiB"`} {
		file := filepath.Join(t.TempDir(), "config.toml")
		if err := os.WriteFile(file, []byte("[upgrade]\nvolume_seed_limit = "+value+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(file); err == nil || !strings.Contains(err.Error(), mention) || !strings.Contains(err.Error(), ":2:") {
			t.Errorf("%s: %v; want line 2 and %q", value, err, mention)
		}
	}
}
