//go:build failpoints

// Package failpoint lets a test end the daemon at a named step. It is compiled in with -tags failpoints only: the
// product carries none of it.
package failpoint

import (
	"os"
	"strings"
	"syscall"
	"time"
)

// Enabled says whether this binary was built with failpoints.
const Enabled = true

// Hit acts on the environment variable CRI_POUCH_FAILPOINTS, a comma-separated list of NAME=kill (SIGKILL to this
// process), NAME=sleep:DURATION, NAME=hold:PATH, which makes the file PATH and waits until it is removed, or NAME=panic:PATH,
// which removes the file PATH and panics, and does nothing where there is no such file. Names have the form
// room.step, as "sandbox.network-attached".
func Hit(name string) {
	for _, entry := range strings.Split(os.Getenv("CRI_POUCH_FAILPOINTS"), ",") {
		key, action, _ := strings.Cut(entry, "=")
		if key != name {
			continue
		}
		if d, ok := strings.CutPrefix(action, "sleep:"); ok {
			if wait, err := time.ParseDuration(d); err == nil {
				time.Sleep(wait)
			}
			continue
		}
		if path, ok := strings.CutPrefix(action, "hold:"); ok {
			hold(path)
			continue
		}
		if path, ok := strings.CutPrefix(action, "panic:"); ok {
			if os.Remove(path) == nil {
				panic("failpoint " + name)
			}
			continue
		}
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}

// hold tells a test, by a file, that the step is reached, and lets it say when to go on.
func hold(path string) {
	if os.WriteFile(path, nil, 0o600) != nil {
		return
	}
	for {
		if _, err := os.Stat(path); err != nil {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}
