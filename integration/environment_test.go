package integration

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/faults"
	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// daemonFaults are errors of the environment at the system calls of the daemon's standing services.
var daemonFaults = map[string][]string{
	"accept4":           {"ENOMEM", "EMFILE", "ENFILE", "ENOBUFS", "EAGAIN"},
	"epoll_ctl":         {"ENOSPC", "ENOMEM"},
	"socket":            {"EMFILE", "ENFILE", "ENOMEM", "ENOBUFS"},
	"connect":           {"EAGAIN", "ENOMEM"},
	"getsockopt":        {"ENOBUFS"},
	"openat":            {"EMFILE", "ENFILE", "ENOMEM"},
	"newfstatat":        {"ENOMEM"},
	"inotify_add_watch": {"ENOSPC", "ENOMEM"},
	"ppoll":             {"ENOMEM"},
	"getdents64":        {"ENOMEM"},
	"flock":             {"ENOMEM"},
	"mknodat":           {"ENOSPC", "ENOMEM"},
}

// pressLimit bounds each thing that is asked of the daemon while it lacks something: it may never answer.
const pressLimit = 2 * time.Second

// Requests may fail while the kernel has too little of something. The daemon does not end for that and takes nobody's
// containers for lost, and all its listeners answer when it has passed.
func TestTheDaemonOutlivesErrorsOfItsEnvironment(t *testing.T) {
	option, metrics := metricsOption(t)
	n := harness.Start(t, option)
	p := n.RunPod(t)
	bystander := p.Run(t, "bystander", harness.Sh(ticker))
	bystander.AwaitLog(t, "tick 1")
	daemon, shims := n.Daemon.PID(), shimsOf(t, n)
	turn := 0
	for call, errnos := range daemonFaults {
		for _, errno := range errnos {
			turn++
			t.Run(call+"="+errno, func(t *testing.T) {
				shared := t.TempDir()
				ending := p.Run(t, fmt.Sprint("ending-", turn), harness.Sh("until test -e /shared/end; do sleep 0.02; done; echo last words; exit 5"),
					func(c *runtime.ContainerConfig) {
						c.Mounts = append(c.Mounts, &runtime.Mount{ContainerPath: "/shared", HostPath: shared})
					})
				detach := faults.Attach(t, daemon, call+":error="+errno)
				if err := os.WriteFile(filepath.Join(shared, "end"), nil, 0o644); err != nil {
					t.Fatal(err)
				}
				pressDaemon(t, n, bystander, metrics)
				detach()
				if !n.Daemon.Running() {
					t.Fatal("the daemon has ended")
				}
				harness.Eventually(t, "CRI, streams and metrics answer new connections", func() bool {
					return askVersion(n, harness.Patience(10*time.Second)) == nil && askMetrics(metrics) == nil
				})
				if now := shimsOf(t, n); now != shims {
					t.Fatalf("the shims were %s and are %s", shims, now)
				}
				if text, code := ending.Ended(t); code != 5 || text != "last words\n" {
					t.Errorf("a container that ended meanwhile: code %d, log %q", code, text)
				}
				ending.Remove(t)
				if s := bystander.Status(t); s.State != runtime.ContainerState_CONTAINER_RUNNING {
					t.Fatalf("the bystander is %s", s.State)
				}
				if out := bystander.Exec(t, "echo", "here"); out != "here\n" {
					t.Errorf("exec in the bystander says %q", out)
				}
				s := bystander.OpenExec(t, false, "echo", "streamed")
				s.Await(t, "streamed")
				if code, err := s.End(t); code != 0 || err != nil {
					t.Errorf("a streamed exec: %d, %v", code, err)
				}
			})
		}
	}
	letEnd(t, bystander)
	if _, code := bystander.Ended(t); code != 7 {
		t.Errorf("the bystander's exit code is %d", code)
	}
	checkTicks(t, bystander)
}

// pressDaemon uses each listener and what reaches the shim once, whatever comes of it.
func pressDaemon(t *testing.T, n *harness.Node, c *harness.Container, metrics string) {
	t.Helper()
	_ = askVersion(n, pressLimit)
	_ = askMetrics(metrics)
	ctx, cancel := context.WithTimeout(context.Background(), pressLimit)
	defer cancel()
	_, _ = n.Daemon.Runtime.ExecSync(ctx, &runtime.ExecSyncRequest{ContainerId: c.ID, Cmd: []string{"echo", "pressed"}, Timeout: 2})
	if r, err := n.Daemon.Runtime.Exec(ctx, &runtime.ExecRequest{ContainerId: c.ID, Cmd: []string{"true"}, Stdout: true}); err == nil {
		client := http.Client{Timeout: pressLimit}
		if answer, err := client.Post(r.Url, "", nil); err == nil {
			answer.Body.Close()
		}
	}
}

// askVersion calls the daemon on a connection of its own.
func askVersion(n *harness.Node, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	conn, err := grpc.NewClient("unix://"+n.Socket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = runtime.NewRuntimeServiceClient(conn).Version(ctx, &runtime.VersionRequest{}, grpc.WaitForReady(true))
	return err
}

func askMetrics(address string) error {
	client := http.Client{Timeout: pressLimit, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Get("http://" + address + "/metrics")
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("metrics: %s", answer.Status)
	}
	return nil
}

func shimsOf(t *testing.T, n *harness.Node) string {
	t.Helper()
	pids, err := n.Daemon.Shims()
	if err != nil || len(pids) == 0 {
		t.Fatalf("shims: %v, %v", pids, err)
	}
	return strings.Trim(fmt.Sprint(pids), "[]")
}
