package rich

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// registered gives a node whose administrator has registered components, each by the text of its file behind its path, with
// these files in the folder of all.
func registered(t *testing.T, components map[string]string, files map[string]string) *harness.Node {
	t.Helper()
	registry, folder := t.TempDir(), t.TempDir()
	for name, text := range files {
		at := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range components {
		if err := os.WriteFile(filepath.Join(registry, name+".toml"), fmt.Appendf(nil, "path = %q\n%s", folder, text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return harness.Start(t, harness.Config(fmt.Sprintf("rich.components_dir = %q\n", registry)))
}

// A component runs beside the application with its own variables and read-only files; who asked for it, and whether its
// failure ends the container, is as declared, whatever the init.
func TestComponentsOfTheAdministrator(t *testing.T) {
	const agent = "#!/bin/sh\necho \"$ENDPOINT|$0\" >/witness/agent.new; mv /witness/agent.new /witness/agent\ntouch $(dirname $0)/x 2>/dev/null && touch /witness/writable\nexec sleep 1000000\n"
	const broken = "#!/bin/sh\nwhile [ ! -e /witness/break ]; do sleep 0.05; done\nexit 3\n"
	unit := func(program string) string {
		return "[Service]\nExecStart=/run/.pouch/components/" + program + "\n"
	}
	n := registered(t, map[string]string{
		"agent":  "units = [\"agent.service\"]\nscripts = [\"start-agent\"]\nenv = [\"ENDPOINT=it's \\\"%n\\\" $HOME\"]\n",
		"weak":   "units = [\"units/weak.service\"]\nscripts = [\"broken\"]\n",
		"vital":  "units = [\"vital.service\"]\nscripts = [\"broken\"]\nessential = true\n",
		"forced": "units = [\"forced.service\"]\nscripts = [\"forced\"]\nnamespaces = [\"guarded\"]\n",
	}, map[string]string{
		"agent": agent, "start-agent": "#!/bin/sh\n\"$(dirname \"$0\")/agent\" &\n", "agent.service": unit("agent/agent"), "broken": broken, "units/weak.service": unit("weak/broken"), "vital.service": unit("vital/broken"),
		"forced": "#!/bin/sh\ntouch /witness/forced\n", "forced.service": "[Service]\nType=oneshot\nExecStart=/run/.pouch/components/forced/forced\n",
	})
	for _, m := range []machine{{"systemd", "systemd"}, {"sysvinit", "sbin-init"}, {"busybox", "sbin-init"}} {
		t.Run(m.name(), func(t *testing.T) {
			ref := push(t, n, m.image, "1", nil)
			run := func(t *testing.T, edits ...func(*runtime.PodSandboxConfig)) (*harness.Container, string) {
				dir := t.TempDir()
				if err := os.Chmod(dir, 0o777); err != nil {
					t.Fatal(err)
				}
				p := n.RunPod(t, append([]func(*runtime.PodSandboxConfig){pod(m.mode)}, edits...)...)
				c := p.Run(t, "app", probe(ref, "wait", "exit=0"), func(c *runtime.ContainerConfig) {
					c.Mounts = []*runtime.Mount{{HostPath: dir, ContainerPath: "/witness"}}
				})
				c.AwaitLine(t, boot, "waiting")
				return c, dir
			}
			await := func(t *testing.T, path string) {
				harness.Eventually(t, path+" is there", func() bool { _, err := os.Stat(path); return err == nil })
			}
			fail := func(t *testing.T, dir string) {
				if err := os.WriteFile(filepath.Join(dir, "break"), nil, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			t.Run("what is asked for runs", func(t *testing.T) {
				c, dir := run(t, pod(m.mode, "components", "agent"))
				await(t, filepath.Join(dir, "agent"))
				if b, err := os.ReadFile(filepath.Join(dir, "agent")); err != nil || string(b) != "it's \"%n\" $HOME|/run/.pouch/components/agent/agent\n" {
					t.Errorf("%q, %v", b, err)
				}
				for _, file := range []string{"writable", "forced"} {
					if _, err := os.Stat(filepath.Join(dir, file)); err == nil {
						t.Errorf("there is a file %s", file)
					}
				}
				c.Stop(t, 90)
			})
			t.Run("a failure ends nothing", func(t *testing.T) {
				c, dir := run(t, pod(m.mode, "components", "weak"))
				fail(t, dir)
				harness.Eventually(t, "the failure is reported", func() bool { return strings.Contains(info(t, c), `"failedUnits":["`) })
				if s := c.Status(t); s.State != runtime.ContainerState_CONTAINER_RUNNING {
					t.Errorf("the container is %s", s.State)
				}
				c.Stop(t, 90)
				if s := c.Status(t); s.ExitCode != 0 {
					t.Errorf("code %d, %s", s.ExitCode, s.Message)
				}
			})
			t.Run("that of an essential one ends the container", func(t *testing.T) {
				c, dir := run(t, pod(m.mode, "components", "vital"))
				fail(t, dir)
				c.Ended(t)
				if s := c.Status(t); s.ExitCode == 0 || !strings.Contains(s.Message, "vital") {
					t.Errorf("code %d, message %q", s.ExitCode, s.Message)
				}
			})
			t.Run("a compulsory one runs unasked", func(t *testing.T) {
				c, dir := run(t, func(c *runtime.PodSandboxConfig) { c.Metadata.Namespace = "guarded" })
				await(t, filepath.Join(dir, "forced"))
				c.Stop(t, 90)
			})
			t.Run("one that is not registered is an error", func(t *testing.T) {
				p := n.RunPod(t, pod(m.mode, "components", "agent,absent"))
				refused(t, p, codes.InvalidArgument, p.ContainerConfig("app", probe(ref, "exit=0")), prefix+"components", `"absent"`, "agent, forced, vital, weak", "absent.toml")
			})
		})
	}
}

// info is what a verbose status tells.
func info(t *testing.T, c *harness.Container) string {
	t.Helper()
	r, err := c.Pod.Node.Daemon.Runtime.ContainerStatus(harness.Context(t), &runtime.ContainerStatusRequest{ContainerId: c.ID, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	return r.Info["info"]
}

// A component that fails again and again, as a job of a timer may for months, hides neither the failure of a watched unit
// nor the application's end, and does not fill the journal.
func TestAComponentThatFailsAgainAndAgain(t *testing.T) {
	n := registered(t, map[string]string{"job": "units = [\"job.service\"]\n"}, map[string]string{
		"job.service": "[Unit]\nStartLimitIntervalSec=0\n[Service]\nType=oneshot\nExecStart=/bin/false\n",
	})
	ref := push(t, n, "systemd", "again", nil, service("watched.service", "[Service]\nExecStart=/bin/sh -c 'until test -e /fail; do sleep 0.1; done; exit 3'\n")...)
	c := n.RunPod(t, pod("systemd", "components", "job", "watch-units", "watched.service")).Run(t, "app", probe(ref, "wait", "exit=0"))
	c.AwaitLine(t, boot, "waiting")
	harness.Eventually(t, "the job has failed once", func() bool { return strings.Contains(info(t, c), `"failedUnits":["job.service"`) })
	// What systemd runs after each failure, but for five in ten seconds: for longer than this test may last.
	exec(t, c, "sh", "-c", "for i in $(seq 40); do /run/.pouch/launch unit job.service; done; touch /fail")
	c.Ended(t)
	if s := c.Status(t); s.ExitCode == 0 || !strings.Contains(s.Message, "watched.service") {
		t.Errorf("code %d, reason %s, message %q", s.ExitCode, s.Reason, s.Message)
	}
	if u := unit(inside(t, c), "job.service"); !u.HasFailed || u.Component != "job" {
		t.Errorf("the component is %v", u)
	}
	told := failuresTold(t, n, c)
	if told["job.service"] == 0 || told["job.service"] > 8 || told["watched.service"] != 1 || len(told) != 2 {
		t.Errorf("the journal tells of %v", told)
	}
}
