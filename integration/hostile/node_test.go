package hostile

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
	"github.com/cri-pouch/cri-pouch/integration/lab"
)

// patience is how long one call of a bystander may take before the test gives up: what is looked for are nodes that stand
// still for good, or until a deadline of a minute ends what holds them up. How long it does take is measured, not asserted.
const patience = 40 * time.Second

const hostileImage = lab.Domain + "/hostile:1"

// start gives a node whose registry holds an image with the attacker in it.
func start(t *testing.T, options ...harness.Option) *harness.Node {
	t.Helper()
	n := harness.Start(t, options...)
	path := filepath.Join(harness.Top(t), "build/hostile/attacker")
	binary, err := os.ReadFile(path)
	if err != nil {
		t.Skipf("%v: make build-tests", err)
	}
	files, err := lab.BusyboxFiles()
	if err != nil {
		t.Fatal(err)
	}
	layer, err := lab.Layer(append(files, lab.File{Name: "attacker", Mode: 0o755, Content: binary})...)
	if err != nil {
		t.Fatal(err)
	}
	image, err := lab.Image(nil, layer)
	if err == nil {
		err = n.Images.Push("hostile:1", image)
	}
	if err != nil {
		t.Fatal(err)
	}
	n.Pull(t, hostileImage)
	n.Pull(t, harness.Busybox)
	return n
}

// attack runs the attacker in a pod and waits until it has begun.
func attack(t *testing.T, p *harness.Pod, name string, attacks []string, edits ...func(*runtime.ContainerConfig)) *harness.Container {
	t.Helper()
	c := p.Run(t, name, append([]func(*runtime.ContainerConfig){
		hostile, harness.Command(append([]string{"/attacker"}, attacks...)...),
	}, edits...)...)
	awaitLine(t, c, regexp.MustCompile(`(?m)(attacking|waiting)$`))
	return c
}

func hostile(c *runtime.ContainerConfig) {
	c.Image = &runtime.ImageSpec{Image: hostileImage, UserSpecifiedImage: hostileImage}
}

// shared gives a pod one pid namespace for all its containers.
func shared(c *runtime.PodSandboxConfig) {
	c.Linux.SecurityContext.NamespaceOptions.Pid = runtime.NamespaceMode_POD
}

// tail is the end of a log that may be large.
func tail(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return ""
	}
	const most = 64 << 10
	b := make([]byte, min(st.Size(), most))
	n, _ := f.ReadAt(b, st.Size()-int64(len(b)))
	return string(b[:n])
}

func awaitLine(t *testing.T, c *harness.Container, line *regexp.Regexp) {
	t.Helper()
	for until := time.Now().Add(harness.Patience(patience)); !line.MatchString(tail(c.LogFile())); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("%s does not say %s, but:\n%s", c.Config.Metadata.Name, line, tail(c.LogFile()))
		}
	}
}

var stillLine = regexp.MustCompile(`(?m)still (\d+)$`)

// goesOn fails the test unless an attacker attacks still.
func goesOn(t *testing.T, c *harness.Container) {
	t.Helper()
	count := func() int {
		found := stillLine.FindAllStringSubmatch(tail(c.LogFile()), -1)
		if len(found) == 0 {
			return -1
		}
		n, _ := strconv.Atoi(found[len(found)-1][1])
		return n
	}
	before := count()
	harness.Eventually(t, "the attack goes on", func() bool { return count() > before })
}

// bystander is a pod that has nothing to do with an attack.
type bystander struct {
	t      *testing.T
	pod    *harness.Pod
	steady *harness.Container // prints a line for each SIGUSR1, and a count all the time
	rounds int
}

func newBystander(t *testing.T, n *harness.Node) *bystander {
	t.Helper()
	b := &bystander{t: t, pod: n.RunPod(t)}
	b.steady = b.pod.Run(t, "steady", harness.Sh("n=0; while :; do echo tick $n; n=$((n+1)); sleep 0.1; done"))
	b.steady.AwaitLog(t, "tick 0")
	return b
}

// check does to the bystander what a kubelet does to a pod: it is served.
func (b *bystander) check(during string) {
	b.t.Helper()
	b.rounds++
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience(4*patience))
	defer cancel()
	r := b.pod.Node.Daemon.Runtime
	step := func(what string, do func(ctx context.Context) error) {
		b.t.Helper()
		ctx, cancel := context.WithTimeout(ctx, harness.Patience(patience))
		defer cancel()
		began := time.Now()
		err := do(ctx)
		waits.add(b.t, what, time.Since(began))
		if err != nil {
			b.t.Fatalf("%s: a bystander's %s: %v", during, what, err)
		}
	}
	step("exec", func(ctx context.Context) error {
		a, err := r.ExecSync(ctx, &runtime.ExecSyncRequest{ContainerId: b.steady.ID, Cmd: []string{"echo", "served"}, Timeout: int64(patience / time.Second)})
		if err == nil && string(a.Stdout) != "served\n" {
			err = fmt.Errorf("it says %q and exits with %d", a.Stdout, a.ExitCode)
		}
		return err
	})
	name := "c" + strconv.Itoa(b.rounds)
	var id string
	config := b.pod.ContainerConfig(name, harness.Sh("echo up; exec sleep 1000000"))
	step("create", func(ctx context.Context) (err error) {
		id, err = b.pod.TryCreate(ctx, config)
		return err
	})
	step("start", func(ctx context.Context) error {
		_, err := r.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: id})
		return err
	})
	c := &harness.Container{ID: id, Config: config, Pod: b.pod}
	step("log", func(ctx context.Context) error {
		last := strings.Count(tail(b.steady.LogFile()), "tick")
		for !strings.Contains(tail(c.LogFile()), "up") || strings.Count(tail(b.steady.LogFile()), "tick") <= last {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if len(tail(b.steady.LogFile())) >= 64<<10 { // the count does not grow any more
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		return nil
	})
	step("stop", func(ctx context.Context) error {
		_, err := r.StopContainer(ctx, &runtime.StopContainerRequest{ContainerId: id, Timeout: 0})
		return err
	})
	step("remove", func(ctx context.Context) error {
		_, err := r.RemoveContainer(ctx, &runtime.RemoveContainerRequest{ContainerId: id})
		return err
	})
}

// refusedLate fails the test unless a call that an attack holds up has been given up in the end.
func refusedLate(t *testing.T, what string, err error) {
	t.Helper()
	switch status.Code(err) {
	case codes.DeadlineExceeded, codes.FailedPrecondition, codes.Unavailable, codes.Aborted, codes.Canceled, codes.Unknown, codes.Internal, codes.ResourceExhausted:
	default:
		t.Errorf("%s: %v", what, err)
	}
}
