package rich

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// Hooks of the node run around a rich container as around any other, and can be for its init or for its application.
func TestNodeHooksInEveryMode(t *testing.T) {
	top := t.TempDir()
	dir, log, program := filepath.Join(top, "hooks.d"), filepath.Join(top, "log"), filepath.Join(top, "note")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(path, text string, mode os.FileMode) {
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	write(program, fmt.Sprintf("#!/bin/sh\necho \"$1\" >> %s\n", log), 0o755)
	declare := func(name, path, args, when, stage string) {
		write(filepath.Join(dir, name+".json"), fmt.Sprintf(`{"version": "1.0.0", "hook": {"path": %q, "args": %s}, "when": %s, "stages": [%q]}`, path, args, when, stage), 0o644)
	}
	stages := []string{"prestart", "createRuntime", "createContainer", "poststart", "poststop"}
	for _, stage := range stages {
		declare(stage, program, fmt.Sprintf(`["note", %q]`, stage), `{"commands": ["/probe$"]}`, stage)
	}
	declare("inside", "/bin/sh", `["sh", "-c", "cat /proc/1/comm > /seen"]`, `{"commands": ["/probe$"]}`, "startContainer")
	declare("zz-init", program, `["note", "for the init"]`, `{"commands": ["init$", "systemd$"]}`, "createRuntime")

	n := harness.Start(t, harness.Config(fmt.Sprintf("[hooks]\nhooks_dirs = [%q]\n", dir)))
	for _, m := range []machine{{"systemd", "systemd"}, {"busybox", "sbin-init"}, {"dumb-init", "dumb-init"}} {
		t.Run(m.name(), func(t *testing.T) {
			ref := push(t, n, m.image, "hooks", nil)
			_ = os.Remove(log)
			c := n.RunPod(t, pod(m.mode)).Run(t, "app", probe(ref, "wait", "exit=3"))
			c.AwaitLine(t, boot, "waiting")
			if got := c.Exec(t, "cat", "/seen"); !strings.HasPrefix(got, "runc:") {
				t.Errorf("pid 1 was %q already when the startContainer hook ran", got)
			}
			c.Stop(t, 90)
			c.Remove(t)
			b, err := os.ReadFile(log)
			if err != nil {
				t.Fatal(err)
			}
			want := []string{"prestart", "createRuntime", "for the init", "createContainer", "poststart", "poststop"}
			if got := strings.Split(strings.TrimSpace(string(b)), "\n"); !slices.Equal(got, want) {
				t.Errorf("%q, want %q", got, want)
			}
		})
	}
}
