package integration

import (
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

func TestExecSync(t *testing.T) {
	n := harness.Start(t)
	c := n.RunPod(t).Run(t, "app")
	run := func(timeout int64, argv ...string) (*runtime.ExecSyncResponse, error) {
		return n.Daemon.Runtime.ExecSync(harness.Context(t), &runtime.ExecSyncRequest{ContainerId: c.ID, Cmd: argv, Timeout: timeout})
	}
	t.Run("streams and exit code", func(t *testing.T) {
		r, err := run(10, "sh", "-c", "echo out; echo err >&2; exit 3")
		if err != nil || r.ExitCode != 3 || string(r.Stdout) != "out\n" || string(r.Stderr) != "err\n" {
			t.Errorf("%v %v", r, err)
		}
	})
	t.Run("a signal's exit code", func(t *testing.T) {
		if r, err := run(10, "sh", "-c", "kill -KILL $$"); err != nil || r.ExitCode != 137 {
			t.Errorf("%v %v", r, err)
		}
	})
	t.Run("past its timeout", func(t *testing.T) {
		begin := time.Now()
		_, err := run(1, "sleep", "98765")
		wantCode(t, err, codes.DeadlineExceeded)
		if took := time.Since(begin); took > harness.Patience(harness.LongEnough) {
			t.Errorf("the answer took %s", took)
		}
		harness.Eventually(t, "the process is gone", func() bool { return !strings.Contains(c.Exec(t, "ps", "-o", "args"), "98765") })
	})
	// The kubelet takes messages of 16 MiB at most, so both streams together have to stay below.
	t.Run("output is capped so that it fits a message of 16 MiB", func(t *testing.T) {
		for _, script := range []string{"head -c 20000000 /dev/zero; exit 4", "head -c 12000000 /dev/zero; head -c 12000000 /dev/zero >&2; exit 4"} {
			r, err := run(60, "sh", "-c", script)
			if got := len(r.GetStdout()) + len(r.GetStderr()); err != nil || got < 15<<20 || r.ExitCode != 4 {
				t.Errorf("%s: %d bytes, exit code %d, %v", script, got, r.GetExitCode(), err)
			}
		}
	})
	t.Run("missing program", func(t *testing.T) {
		r, err := run(10, "/no/such/program")
		if err == nil && (r.ExitCode == 0 || !strings.Contains(string(r.Stderr), "/no/such/program")) {
			t.Errorf("%v", r)
		}
		if err != nil {
			wantError(t, err, "/no/such/program")
		}
	})
	t.Run("no command", func(t *testing.T) {
		_, err := run(10)
		wantCode(t, err, codes.InvalidArgument)
	})
	t.Run("in an ended container", func(t *testing.T) {
		c.Stop(t, 0)
		if _, err := run(10, "true"); err == nil {
			t.Error("no error")
		}
	})
	t.Run("in no container", func(t *testing.T) {
		_, err := n.Daemon.Runtime.ExecSync(harness.Context(t), &runtime.ExecSyncRequest{ContainerId: "nowhere", Cmd: []string{"true"}})
		wantCode(t, err, codes.NotFound, "nowhere")
	})
}

// What the daemon holds open for itself must not be seen by containers.
func TestNoDescriptorLeaksIntoContainers(t *testing.T) {
	n := harness.Start(t)
	p := n.RunPod(t)
	text, _ := p.RunToEnd(t, "first", harness.Command("ls", "/proc/self/fd"))
	if got := strings.Fields(text); strings.Join(got, " ") != "0 1 2 3" { // 3 is ls's own look at the folder
		t.Errorf("pid 1 has descriptors %v", got)
	}
	c := p.Run(t, "second")
	if got := strings.Fields(c.Exec(t, "ls", "/proc/self/fd")); strings.Join(got, " ") != "0 1 2 3" {
		t.Errorf("an exec'd process has descriptors %v", got)
	}
}

func TestExitCodesAndReasons(t *testing.T) {
	n := harness.Start(t)
	p := n.RunPod(t)
	for name, want := range map[string]struct {
		script string
		code   int32
		reason string
	}{
		"zero":   {"exit 0", 0, "Completed"},
		"error":  {"exit 5", 5, "Error"},
		"signal": {"kill -TERM $$; sleep 10", 143, "Error"},
	} {
		t.Run(name, func(t *testing.T) {
			// As pid 1 a shell is not killed by its own TERM: it runs below another one.
			c := p.Run(t, name, harness.Command("sh", "-c", "sh -c '"+want.script+"'; exit $?"))
			_, code := c.Ended(t)
			if s := c.Status(t); code != want.code || s.Reason != want.reason || s.FinishedAt < s.StartedAt {
				t.Errorf("status is %v", s)
			}
		})
	}
	t.Run("out of memory", func(t *testing.T) {
		c := p.Run(t, "oom", harness.Command("tail", "/dev/zero"), func(c *runtime.ContainerConfig) {
			c.Linux.Resources = &runtime.LinuxContainerResources{MemoryLimitInBytes: 24 << 20, MemorySwapLimitInBytes: 24 << 20}
		})
		_, code := c.Ended(t)
		if s := c.Status(t); code != 137 || s.Reason != "OOMKilled" {
			t.Errorf("status is %v", s)
		}
	})
	t.Run("stopped within its grace", func(t *testing.T) {
		c := p.Run(t, "polite", harness.Sh("trap 'echo asked; exit 3' TERM; echo up; while true; do sleep 0.05; done"))
		c.AwaitLog(t, "up")
		begin := time.Now()
		c.Stop(t, 90)
		if text, code := c.Ended(t); code != 3 || !strings.Contains(text, "asked") || time.Since(begin) > harness.Patience(harness.LongEnough) {
			t.Errorf("exit code %d after %s, log %q", code, time.Since(begin), text)
		}
	})
	t.Run("killed after its grace", func(t *testing.T) {
		c := p.Run(t, "deaf", harness.Sh("trap '' TERM; echo up; while true; do sleep 0.05; done"))
		c.AwaitLog(t, "up")
		begin := time.Now()
		c.Stop(t, 1)
		if _, code := c.Ended(t); code != 137 || time.Since(begin) < time.Second {
			t.Errorf("exit code %d after %s", code, time.Since(begin))
		}
	})
}

// Kubelet and users read this error: it has to name the program.
func TestProgramsThatCannotRun(t *testing.T) {
	n := harness.Start(t)
	p := n.RunPod(t)
	for name, program := range map[string]string{
		"missing":        "/no/such/program",
		"not-in-path":    "nosuchprogram",
		"not-executable": "/etc/not-executable",
		"a-folder":       "/etc",
	} {
		t.Run(name, func(t *testing.T) {
			c := p.ContainerConfig(name, harness.Command(program, "arg"))
			n.Pull(t, harness.Busybox)
			id, err := p.TryCreate(harness.Context(t), c)
			if err == nil {
				_, err = n.Daemon.Runtime.StartContainer(harness.Context(t), &runtime.StartContainerRequest{ContainerId: id})
				if s := (&harness.Container{ID: id, Config: c, Pod: p}).Status(t); s.State != runtime.ContainerState_CONTAINER_EXITED || s.ExitCode != 128 || s.Reason != "StartError" {
					t.Errorf("status is %v", s)
				}
			}
			wantError(t, err, program)
		})
	}
	if s := p.Status(t); s.State != runtime.PodSandboxState_SANDBOX_READY {
		t.Errorf("the sandbox is %s", s.State)
	}
}

func TestLogs(t *testing.T) {
	n := harness.Start(t)
	p := n.RunPod(t)
	t.Run("streams and long lines", func(t *testing.T) {
		c := p.Run(t, "talk", harness.Sh("echo out; echo err >&2; head -c 40000 /dev/zero | tr '\\0' x; echo; printf end"))
		text, _ := c.Ended(t)
		streams, partial := map[string]string{}, false
		for _, l := range harness.ReadLog(t, c.LogFile()) {
			streams[l.Stream] += l.Text
			partial = partial || l.Tag == "P"
			if len(l.Text) > 16<<10 {
				t.Errorf("an entry has %d bytes", len(l.Text))
			}
		}
		if streams["stderr"] != "err" || streams["stdout"] != "out"+strings.Repeat("x", 40000)+"end" || !partial {
			t.Errorf("log is %.80q, %d bytes", text, len(text))
		}
	})
	t.Run("rotation", func(t *testing.T) {
		c := p.Run(t, "rotate", harness.Sh(ticker))
		c.AwaitLog(t, "tick 5")
		old := c.LogFile() + ".old"
		if err := os.Rename(c.LogFile(), old); err != nil {
			t.Fatal(err)
		}
		if _, err := n.Daemon.Runtime.ReopenContainerLog(harness.Context(t), &runtime.ReopenContainerLogRequest{ContainerId: c.ID}); err != nil {
			t.Fatal(err)
		}
		c.AwaitLog(t, "tick ")
		letEnd(t, c)
		c.Ended(t)
		all := append(harness.ReadLog(t, old), harness.ReadLog(t, c.LogFile())...)
		for i, l := range all {
			if want := "tick " + itoa(i); l.Text != want {
				t.Fatalf("line %d over both files is %q", i, l.Text)
			}
		}
	})
	t.Run("reopening the log of an ended container", func(t *testing.T) {
		c := p.Run(t, "ended", harness.Command("true"))
		c.Ended(t)
		if _, err := n.Daemon.Runtime.ReopenContainerLog(harness.Context(t), &runtime.ReopenContainerLogRequest{ContainerId: c.ID}); err == nil {
			t.Error("no error")
		}
	})
}

// Until a new shim can adopt containers, the death of the shim ends them; they are reported as lost, nothing of them
// stays, and the next pod runs.
func TestTheShimIsKilled(t *testing.T) {
	n := harness.Start(t)
	p := n.RunPod(t)
	c := p.Run(t, "app")
	n.ShimKiller(t)()
	_, code := c.Ended(t)
	if s := c.Status(t); s.Reason != "Lost" {
		t.Errorf("reason is %q, exit code %d", s.Reason, code)
	}
	harness.Eventually(t, "no process is left", func() bool {
		left, err := n.Processes()
		return err == nil && len(left) == 0
	})
	again := p.Run(t, "app", func(c *runtime.ContainerConfig) { c.Metadata.Attempt = 1 })
	if got := again.Exec(t, "echo", "hello"); got != "hello\n" {
		t.Errorf("the next container says %q", got)
	}
	n.RunPod(t).Run(t, "other")
}

func TestTheShimIsKilledWhileNoDaemonRuns(t *testing.T) {
	n := harness.Start(t)
	p := n.RunPod(t)
	c := p.Run(t, "app")
	killShim := n.ShimKiller(t)
	n.KillDaemon(t)
	killShim()
	n.StartDaemon(t)
	c.Ended(t)
	if s := c.Status(t); s.Reason != "Lost" {
		t.Errorf("reason is %q", s.Reason)
	}
	if left, err := n.Processes(); err != nil || len(left) > 0 {
		t.Errorf("processes are left: %v %v", left, err)
	}
	p.Run(t, "app", func(c *runtime.ContainerConfig) { c.Metadata.Attempt = 1 })
}
