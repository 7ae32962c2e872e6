package main

import (
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestDetachKeys(t *testing.T) {
	for name, tc := range map[string]struct {
		typed, want string
		detached    bool
	}{
		"nothing":                        {"", "", false},
		"no keys":                        {"ls -l\r", "ls -l\r", false},
		"both":                           {"ab\x10\x11cd", "ab", true},
		"the first alone":                {"a\x10b", "a\x10b", false},
		"the second alone":               {"a\x11b", "a\x11b", false},
		"the first twice, then both":     {"\x10\x10\x11", "\x10", true},
		"the first at the end":           {"a\x10", "a", false}, // nothing can follow
		"longer than a piece of reading": {strings.Repeat("x\x10y", 1000) + "\x10\x11", strings.Repeat("x\x10y", 1000), true},
	} {
		for how, reader := range map[string]io.Reader{"at once": strings.NewReader(tc.typed), "key by key": iotest.OneByteReader(strings.NewReader(tc.typed))} {
			detached := false
			b, err := io.ReadAll(&detachReader{from: reader, keys: []byte{0x10, 0x11}, detach: func() { detached = true }})
			if err != nil || string(b) != tc.want || detached != tc.detached {
				t.Errorf("%s, %s: %q, detached %v, %v", name, how, b, detached, err)
			}
		}
	}
}

func TestParsePort(t *testing.T) {
	for arg, want := range map[string]forwardedPort{"80": {80, 80}, "8080:80": {8080, 80}, "0:80": {0, 80}} {
		if got, err := parsePort(arg); err != nil || got != want {
			t.Errorf("%s: %v, %v", arg, got, err)
		}
	}
	for _, arg := range []string{"", ":", "0", "80:0", "65536", "80:65536", "-1", "a", "1:2:3", " 80"} {
		if got, err := parsePort(arg); err == nil {
			t.Errorf("%q gives %v", arg, got)
		}
	}
}
