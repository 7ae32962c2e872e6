package integration

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
	"github.com/cri-pouch/cri-pouch/integration/lab"
	"github.com/cri-pouch/cri-pouch/internal/hookrun"
)

// hooksTest gives `hooks test` of a declaration.
func hooksTest(t testing.TB, n *harness.Node, declaration string, args ...string) *exec.Cmd {
	t.Helper()
	file := filepath.Join(t.TempDir(), "hooks.json")
	if err := os.WriteFile(file, []byte(declaration), 0o600); err != nil {
		t.Fatal(err)
	}
	return cli(t, n, append([]string{"hooks", "test", "-f", file, "--cgroup-parent", n.CgroupParent()}, args...)...)
}

// noPods insists that the scratch pod is gone.
func noPods(t testing.TB, n *harness.Node) {
	t.Helper()
	if list, err := n.Daemon.Runtime.ListPodSandbox(harness.Context(t), &runtime.ListPodSandboxRequest{}); err != nil || len(list.Items) > 0 {
		t.Errorf("pods that are left: %v, %v", list, err)
	}
}

// `hooks test` runs a declaration in any image, says what became of it, and leaves nothing.
func TestHooksAreTriedByTheCommandLine(t *testing.T) {
	n := harness.Start(t, harness.Config("[hooks]\ngrants = [\"open=NET_ADMIN\"]\n"))
	for name, test := range map[string]struct {
		declaration string
		args        []string
		code        int
		want        []string // that both streams hold, in this order
	}{
		"both stages": {`{"prestart": [{"name": "a", "exec": ["/bin/busybox", "echo", "one\ttab"]}], "poststop": [{"name": "b", "exec": ["sh", "-c", "echo $POUCH_EXIT_CODE $POUCH_REASON"]}]}`,
			nil, 0, []string{"prestart a: succeeded after ", "\n    one        tab\npoststop b: succeeded after ", "\n    0 Completed\n"}},
		"the image's command": {`{"poststop": [{"name": "b", "exec": ["sh", "-c", "echo $POUCH_EXIT_CODE $OWN"]}]}`,
			[]string{"--run", "-e", "OWN=mine", "--", "sh", "-c", "exit 3"}, 0, []string{"    3 mine\n"}},
		"a failing prestart": {`{"prestart": [{"name": "a", "exec": ["sh", "-c", "echo why; exit 4"]}, {"name": "b", "exec": ["true"]}]}`,
			nil, 1, []string{"prestart a: failed with exit code 4 after ", "    why\nprestart b: skipped: a hook before it has failed\n"}},
		"a failure that is ignored": {`{"poststop": [{"name": "a", "exec": ["false"], "onFailure": "ignore"}]}`, nil, 1, []string{"poststop a: failed with exit code 1", ", which is ignored"}},
		"a mistake":                 {"{\n\"poststop\": [\n  {\"name\": \"a\", \"exec\": []}]}", nil, 1, []string{"annotation hooks.cri-pouch.io/poststop: line 3, column 25: hook 1 (\"a\"), field exec: the list is empty"}},
		"more than is granted":      {`{"prestart": [{"name": "a", "exec": ["true"], "capabilities": ["NET_ADMIN"]}]}`, nil, 1, []string{"NET_ADMIN in hooks.grants"}},
		"as much as is granted":     {`{"prestart": [{"name": "a", "exec": ["ip", "link", "add", "dummy0", "type", "bridge"], "capabilities": ["NET_ADMIN"]}]}`, []string{"--namespace", "open"}, 0, []string{"prestart a: succeeded"}},
		"no declaration":            {`[]`, nil, 1, []string{"it is no JSON object"}},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := hooksTest(t, n, test.declaration, append([]string{"--image", harness.Busybox}, test.args...)...)
			out, _ := cmd.CombinedOutput()
			if cmd.ProcessState.ExitCode() != test.code {
				t.Errorf("code %d, %s", cmd.ProcessState.ExitCode(), out)
			}
			rest := string(out)
			for _, want := range test.want {
				_, after, found := strings.Cut(rest, want)
				if !found {
					t.Fatalf("%q is not in %q", want, out)
				}
				rest = after
			}
			noPods(t, n)
		})
	}
	t.Run("an image without a shell, as JSON", func(t *testing.T) {
		busybox, err := os.ReadFile(lab.Busybox)
		if err != nil {
			t.Fatal(err)
		}
		ref := pushImage(t, n, "hooks:bare", func(c *v1.ConfigFile) { c.Config.User = "1000" }, lab.File{Name: "busybox", Mode: 0o755, Content: busybox})
		cmd := hooksTest(t, n, `{"prestart": [{"name": "a", "exec": ["/busybox", "id", "-u"]}], "poststop": [{"name": "b", "exec": ["/busybox", "true"]}]}`, "--image", ref, "-o", "json")
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		var r []hookrun.Result
		if err != nil || json.Unmarshal(out, &r) != nil || len(r) != 2 || r[0].Output != "1000\n" || r[1].Outcome != hookrun.Succeeded {
			t.Errorf("%v, %s", err, out)
		}
		noPods(t, n)
	})
	t.Run("interrupted", func(t *testing.T) {
		cmd := hooksTest(t, n, `{"prestart": [{"name": "a", "exec": ["sh", "-c", "sleep 4321"]}]}`, "--image", harness.Busybox)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		harness.Eventually(t, "the hook runs", func() bool { return commandRuns("sleep\x004321") })
		if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != 1 {
			t.Errorf("%v, %s", err, &out)
		}
		noPods(t, n)
	})
}

// commandRuns says whether a process has such a command line.
func commandRuns(line string) bool {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range all {
		if b, err := os.ReadFile(f); err == nil && strings.TrimSuffix(string(b), "\x00") == line {
			return true
		}
	}
	return false
}
