package rich

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	osexec "os/exec"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
	"github.com/cri-pouch/cri-pouch/integration/harness"
	"github.com/cri-pouch/cri-pouch/integration/lab"
)

// inside asks what runs in a container.
func inside(t *testing.T, c *harness.Container) *pouchv1.UnitsResponse {
	t.Helper()
	resp, err := c.Pod.Node.Daemon.Pouch.Units(harness.Context(t), &pouchv1.UnitsRequest{ContainerId: c.ID})
	if err != nil {
		t.Fatalf("Units: %v", err)
	}
	if resp.ContainerId != c.ID {
		t.Errorf("Units tells of %q", resp.ContainerId)
	}
	return resp
}

// unit finds a unit, or gives an empty one.
func unit(resp *pouchv1.UnitsResponse, name string) *pouchv1.Unit {
	if i := slices.IndexFunc(resp.Units, func(u *pouchv1.Unit) bool { return u.Name == name }); i >= 0 {
		return resp.Units[i]
	}
	return &pouchv1.Unit{}
}

// command runs the client program and gives exit code and both streams.
func command(t *testing.T, n *harness.Node, args ...string) (code int, out, errs string) {
	t.Helper()
	cmd := osexec.CommandContext(harness.Context(t), n.Binary, append([]string{"--socket", n.Socket()}, args...)...)
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	err := cmd.Run()
	if _, ended := err.(*osexec.ExitError); err != nil && !ended {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), o.String(), e.String()
}

// withAgent gives a node with the component log-agent, which fails as soon as /fail is there.
func withAgent(t *testing.T) *harness.Node {
	t.Helper()
	return registered(t, map[string]string{"log-agent": "units = [\"log-agent.service\"]\nscripts = [\"start\"]\n"}, map[string]string{
		"log-agent.service": "[Service]\nExecStart=/run/.pouch/components/log-agent/start\n",
		"start":             "#!/bin/sh\nuntil test -e /fail; do sleep 0.1; done\nexit 3\n",
	})
}

func TestTheServicesOfEverySystemd(t *testing.T) {
	for _, m := range []machine{{"bullseye", "systemd"}, {"systemd", "systemd"}, {"systemd", "sbin-init"}, {"trixie", "systemd"}, {"forky", "systemd"}} {
		t.Run(m.name(), func(t *testing.T) {
			t.Parallel()
			base(t, m.image)
			n := withAgent(t)
			ref := push(t, n, m.image, "services", nil, slices.Concat(
				service("watched.service", "[Service]\nExecStart=/bin/sleep infinity\n"), service("broken.service", "[Service]\nExecStart=/bin/false\n"),
				service("flapping.service", "[Service]\nExecStart=/bin/sh -c 'test -e /run/third && exec sleep infinity; test -e /run/second && touch /run/third; touch /run/second; exit 1'\nRestart=on-failure\nRestartSec=10ms\n"),
				[]lab.File{{Name: "units/mine.service", Content: []byte("[Service]\nExecStart=/bin/sleep infinity\n")}, {Name: "units/many@.service", Content: []byte("[Service]\nExecStart=/bin/true\n")},
					{Name: "units/mine.timer", Content: []byte("[Timer]\nOnActiveSec=1d\n[Install]\nWantedBy=timers.target\n")}})...)
			edits := []func(*runtime.PodSandboxConfig){pod(m.mode, "watch-units", "watched.service", "units-from", "/units", "components", "log-agent", "restart", "on-failure", "restart-interval", "10ms")}
			if m.mode == "sbin-init" {
				edits = append(edits, userns)
			}
			p := n.RunPod(t, edits...)
			c := p.Run(t, "app", probe(ref, "wait", "exit=0"))
			c.AwaitLine(t, boot, "waiting")
			exec(t, c, "systemctl", "is-system-running", "--wait")
			exec(t, c, "systemctl", "start", "mine.service")
			harness.Eventually(t, "the services are as they should be", func() bool {
				_, out := exec(t, c, "systemctl", "is-active", "flapping", "log-agent", "mine", "watched")
				return out == "active\nactive\nactive\nactive"
			})
			t.Run("are listed", func(t *testing.T) { systemdsServicesAreListed(t, c) })
			t.Run("are printed", func(t *testing.T) { systemdsServicesArePrinted(t, c) })
			t.Run("have failed", func(t *testing.T) {
				exec(t, c, "touch", "/fail")
				harness.Eventually(t, "the component's failure is told", func() bool {
					u := unit(inside(t, c), "log-agent.service")
					return u.Active == "failed" && u.HasFailed
				})
			})
			t.Run("are remembered", func(t *testing.T) {
				c.Stop(t, 90)
				c.Ended(t)
				resp := inside(t, c)
				if resp.Running || resp.Problem != "" || len(resp.Processes) > 0 || unit(resp, "cron.service").Name != "" {
					t.Errorf("%v", resp)
				}
				if u := unit(resp, "log-agent.service"); u.Active != "failed" || !u.HasFailed || u.Component != "log-agent" {
					t.Errorf("the component is %v", u)
				}
				if u := unit(resp, "watched.service"); !u.Watched || u.HasFailed || u.Active != "" {
					t.Errorf("the watched unit is %v", u)
				}
				if a := resp.Application; a.State != "exited" || a.ExitCode == nil || *a.ExitCode != 0 || a.Pid != 0 || a.FinishedAt < a.StartedAt {
					t.Errorf("the application is %v", a)
				}
			})
		})
	}
}

func systemdsServicesAreListed(t *testing.T, c *harness.Container) {
	restarted(t, c)
	resp := inside(t, c)
	if !resp.Running || resp.Init != "systemd" || resp.Problem != "" || len(resp.Processes) > 0 || resp.UnitsOmitted > 0 {
		t.Errorf("running %v, init %q, problem %q, %d processes, %d units omitted", resp.Running, resp.Init, resp.Problem, len(resp.Processes), resp.UnitsOmitted)
	}
	app := resp.Units[0]
	if app.Name != "pouch-app.service" || !app.Application || app.Active != "active" || app.Sub != "running" || app.GetRestarts() != 1 || app.MainPid != resp.Application.Pid {
		t.Errorf("the application is %v", app)
	}
	if got := strings.Fields(c.Exec(t, "pidof", "probe")); !slices.Equal(got, []string{fmt.Sprint(app.MainPid)}) {
		t.Errorf("the application is process %v, told is %d", got, app.MainPid)
	}
	cron := unit(resp, "cron.service")
	if got := strings.TrimSpace(c.Exec(t, "pidof", "cron")); cron.Load != "loaded" || cron.Active != "active" || cron.Sub != "running" || cron.Restarts == nil || fmt.Sprint(cron.MainPid) != got {
		t.Errorf("cron is process %s, told is %v", got, cron)
	}
	for name, ok := range map[string]func(u *pouchv1.Unit) bool{
		"watched.service": func(u *pouchv1.Unit) bool { return u.Watched && !u.Brought && u.Active == "active" },
		"mine.service":    func(u *pouchv1.Unit) bool { return u.Brought && !u.Watched && u.Active == "active" },
		"mine.timer": func(u *pouchv1.Unit) bool {
			return u.Brought && u.Active == "active" && u.Sub != "" && u.Restarts == nil
		},
		"many@.service": func(u *pouchv1.Unit) bool { return u.Name == "" },
		"log-agent.service": func(u *pouchv1.Unit) bool {
			return u.Component == "log-agent" && u.Active == "active" && u.MainPid > 0 && !u.HasFailed
		},
		"broken.service":   func(u *pouchv1.Unit) bool { return u.Active == "failed" && !u.Watched && u.Component == "" },
		"flapping.service": func(u *pouchv1.Unit) bool { return u.Active == "active" && u.GetRestarts() == 2 },
		// Masked, and so not of those that are loaded on their own, but asked for by others.
		"systemd-udevd.service": func(u *pouchv1.Unit) bool { return u.Name == "" || u.Load == "masked" && u.Active == "inactive" },
	} {
		if u := unit(resp, name); !ok(u) {
			t.Errorf("%s is %v", name, u)
		}
	}
}

// restarted has the application end by a signal, and waits until its launcher has started it again.
func restarted(t *testing.T, c *harness.Container) {
	t.Helper()
	first := inside(t, c).Application
	if first.State != "running" || first.Starts != 1 || first.Restarts != 0 || first.Pid == 0 {
		t.Fatalf("the application is %v", first)
	}
	c.Exec(t, "kill", "-KILL", fmt.Sprint(first.Pid))
	harness.Eventually(t, "the application runs again", func() bool {
		a := inside(t, c).Application
		return a.State == "running" && a.Restarts == 1 && a.Pid != first.Pid
	})
}

func systemdsServicesArePrinted(t *testing.T, c *harness.Container) {
	n, name := c.Pod.Node, c.Pod.Config.Metadata.Name+"/app"
	code, out, errs := command(t, n, "ps", "--units", name)
	if code != 0 || errs != "" || !strings.HasPrefix(out, "UNIT") || strings.Contains(out, "masked") {
		t.Errorf("code %d, %s\n%s", code, errs, out)
	}
	t.Logf("ps --units prints\n%s", out)
	for start, end := range map[string]string{"pouch-app.service ": " application", "watched.service ": " watched", "log-agent.service ": " component log-agent", "mine.timer ": " of the pod", "cron.service ": " -", "broken.service ": " -"} {
		if !slices.ContainsFunc(strings.Split(out, "\n"), func(l string) bool { return strings.HasPrefix(l, start) && strings.HasSuffix(l, end) }) {
			t.Errorf("no line from %q to %q:\n%s", start, end, out)
		}
	}
	var message struct{ Units []struct{ Name string } }
	code, out, errs = command(t, n, "ps", "-a", "--units", name, "-o", "json")
	if err := json.Unmarshal([]byte(out), &message); code != 0 || err != nil || len(message.Units) < 10 {
		t.Errorf("code %d, %v, %s\n%s", code, err, errs, out)
	}
}

func TestTheProcessesBelowOtherInits(t *testing.T) {
	for _, m := range []machine{{"sysvinit", "sbin-init"}, {"busybox", "sbin-init"}} {
		t.Run(m.name(), func(t *testing.T) {
			t.Parallel()
			base(t, m.image)
			n := withAgent(t)
			ref := push(t, n, m.image, "1", nil)
			for name, edits := range map[string][]func(*runtime.PodSandboxConfig){"": nil, "in a user namespace": {userns}} {
				t.Run(name, func(t *testing.T) {
					p := n.RunPod(t, append(edits, pod(m.mode, "components", "log-agent", "restart", "always", "restart-interval", "10ms"))...)
					c := p.Run(t, "app", probe(ref, "wait", "exit=6"))
					c.AwaitLine(t, boot, "waiting")
					processesAreListed(t, c, m.image)
					exec(t, c, "touch", "/fail")
					harness.Eventually(t, "the component's failure is told", func() bool {
						u := unit(inside(t, c), "component-log-agent.service")
						return u.HasFailed && u.Active == "failed"
					})
					if code, out, errs := command(t, n, "ps", "--units", c.ID); code != 0 || errs != "" || !strings.Contains(out, "component log-agent") || !strings.Contains(out, "\n\nPID ") {
						t.Errorf("code %d, %s\n%s", code, errs, out)
					}
					c.Stop(t, 90)
					resp := inside(t, c)
					if a := resp.Application; resp.Running || len(resp.Processes) > 0 || a.State != "exited" || a.GetExitCode() != 6 || a.Restarts != 1 {
						t.Errorf("after its end: %v", resp)
					}
				})
			}
		})
	}
}

func processesAreListed(t *testing.T, c *harness.Container, init string) {
	t.Helper()
	restarted(t, c)
	resp := inside(t, c)
	if resp.Init != init || resp.Problem != "" || resp.ProcessesOmitted > 0 {
		t.Errorf("init %q, problem %q, %d omitted", resp.Init, resp.Problem, resp.ProcessesOmitted)
	}
	if u := resp.Units[0]; u.Name != "application" || !u.Application || u.Active != "active" || u.Sub != "running" || u.GetRestarts() != 1 {
		t.Errorf("the application is %v", u)
	}
	if u := unit(resp, "component-log-agent.service"); u.Component != "log-agent" || u.Script != "/run/.pouch/components/log-agent/start" || u.Active != "" || u.HasFailed {
		t.Errorf("the component is %v", u)
	}
	parents := map[int32]int32{}
	for _, p := range resp.Processes {
		parents[p.Pid] = p.ParentPid
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.HostPid)); err == nil && !strings.Contains(string(b), fmt.Sprintf("\t%d\n", p.Pid)) {
			t.Errorf("process %d of the host is told as %d of the container", p.HostPid, p.Pid)
		}
		if p.Application != (p.Pid == resp.Application.Pid) || p.Application && !strings.HasPrefix(p.Command, lab.Probe+" wait") {
			t.Errorf("%v", p)
		}
	}
	// The application is the launcher's child, and that is pid 1's.
	app := resp.Application.Pid
	if first := resp.Processes[0]; first.Pid != 1 || first.ParentPid != 0 || parents[app] == 0 || parents[parents[app]] != 1 {
		t.Errorf("the application's ancestors are not told: %v", resp.Processes)
	}
	if want := strings.Fields(c.Exec(t, "pidof", "probe")); !slices.Equal(want, []string{fmt.Sprint(app)}) {
		t.Errorf("the application is process %v, told is %d", want, app)
	}
}

func TestTheProcessesOfDumbInitMode(t *testing.T) {
	n := harness.Start(t)
	ref := push(t, n, "dumb-init", "1", nil)
	c := n.RunPod(t, pod("dumb-init")).Run(t, "app", probe(ref, "leave=2", "wait", "exit=0"))
	c.AwaitLine(t, boot, "waiting")
	resp := inside(t, c)
	if resp.Mode != "dumb-init" || resp.Application != nil || len(resp.Units) > 0 || len(resp.Processes) < 2 || resp.Processes[0].Pid != 1 || !strings.Contains(resp.Processes[0].Command, "dumb-init") {
		t.Errorf("%v", resp)
	}
	c.Stop(t, 90)
	_, err := n.Daemon.Pouch.Units(harness.Context(t), &pouchv1.UnitsRequest{ContainerId: c.ID})
	failed(t, err, codes.FailedPrecondition, "not running", "dumb-init")
}

func failed(t *testing.T, err error, code codes.Code, parts ...string) {
	t.Helper()
	if status.Code(err) != code {
		t.Errorf("error is %v, wanted code %s", err, code)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error is %q, wanted %q in it", err, part)
		}
	}
}
