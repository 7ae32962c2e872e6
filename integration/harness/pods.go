package harness

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var serial atomic.Int64

// Pod is a sandbox that a test runs.
type Pod struct {
	ID     string
	Config *runtime.PodSandboxConfig
	Node   *Node
}

// Container is a container of a Pod.
type Container struct {
	ID     string
	Config *runtime.ContainerConfig
	Pod    *Pod
}

// PodConfig is what a kubelet would ask for an ordinary pod; edits change it.
func (n *Node) PodConfig(t testing.TB, edits ...func(*runtime.PodSandboxConfig)) *runtime.PodSandboxConfig {
	t.Helper()
	number := serial.Add(1)
	uid := fmt.Sprintf("%s-%d", n.Name, number)
	dir := filepath.Join(n.LogDir(), uid)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	c := &runtime.PodSandboxConfig{
		Metadata:     &runtime.PodSandboxMetadata{Name: fmt.Sprintf("pod%d", number), Namespace: "lab", Uid: uid},
		Hostname:     fmt.Sprintf("pod%d", number),
		LogDirectory: dir,
		Labels:       map[string]string{"io.kubernetes.pod.uid": uid},
		Linux: &runtime.LinuxPodSandboxConfig{
			CgroupParent:    n.CgroupParent(),
			SecurityContext: &runtime.LinuxSandboxSecurityContext{NamespaceOptions: &runtime.NamespaceOption{Pid: runtime.NamespaceMode_CONTAINER}},
		},
	}
	for _, e := range edits {
		e(c)
	}
	return c
}

// RunPod runs a sandbox; it is stopped and removed when the test ends.
func (n *Node) RunPod(t testing.TB, edits ...func(*runtime.PodSandboxConfig)) *Pod {
	t.Helper()
	return n.RunPodConfig(t, n.PodConfig(t, edits...))
}

// RunPodConfig is RunPod with a whole configuration.
func (n *Node) RunPodConfig(t testing.TB, c *runtime.PodSandboxConfig) *Pod {
	t.Helper()
	p := n.runPod(t, c)
	t.Cleanup(func() { p.Remove(t) })
	return p
}

func (n *Node) runPod(t testing.TB, c *runtime.PodSandboxConfig) *Pod {
	t.Helper()
	r, err := n.Daemon.Runtime.RunPodSandbox(Context(t), &runtime.RunPodSandboxRequest{Config: c})
	if err != nil {
		t.Fatalf("RunPodSandbox %s: %v", c.Metadata.Name, err)
	}
	return &Pod{ID: r.PodSandboxId, Config: c, Node: n}
}

// Remove stops and removes the pod; it can be repeated.
func (p *Pod) Remove(t testing.TB) {
	t.Helper()
	ctx := Context(t)
	if !p.Node.Daemon.Running() {
		return // the test has ended it; the lab's clean-up tells what is left
	}
	if _, err := p.Node.Daemon.Runtime.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: p.ID}); err != nil {
		t.Errorf("StopPodSandbox %s: %v", p.ID, err)
	}
	if _, err := p.Node.Daemon.Runtime.RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: p.ID}); err != nil {
		t.Errorf("RemovePodSandbox %s: %v", p.ID, err)
	}
}

// Status is the sandbox's status.
func (p *Pod) Status(t testing.TB) *runtime.PodSandboxStatus {
	t.Helper()
	r, err := p.Node.Daemon.Runtime.PodSandboxStatus(Context(t), &runtime.PodSandboxStatusRequest{PodSandboxId: p.ID})
	if err != nil {
		t.Fatalf("PodSandboxStatus %s: %v", p.ID, err)
	}
	return r.Status
}

// IP is the pod's first address.
func (p *Pod) IP(t testing.TB) string { t.Helper(); return p.Status(t).GetNetwork().GetIp() }

// Pull pulls an image and gives its ID.
func (n *Node) Pull(t testing.TB, ref string) string {
	t.Helper()
	r, err := n.Daemon.Images.PullImage(Context(t), &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: ref}})
	if err != nil {
		t.Fatalf("PullImage %s: %v", ref, err)
	}
	return r.ImageRef
}

// Command sets what a container runs.
func Command(argv ...string) func(*runtime.ContainerConfig) {
	return func(c *runtime.ContainerConfig) { c.Command = argv }
}

// Sh sets a shell script as what a container runs.
func Sh(script string) func(*runtime.ContainerConfig) { return Command("sh", "-c", script) }

// ContainerConfig is what a kubelet would ask for a container that sleeps; edits change it.
func (p *Pod) ContainerConfig(name string, edits ...func(*runtime.ContainerConfig)) *runtime.ContainerConfig {
	c := &runtime.ContainerConfig{
		Metadata: &runtime.ContainerMetadata{Name: name},
		Image:    &runtime.ImageSpec{Image: Busybox, UserSpecifiedImage: Busybox},
		Command:  []string{"sleep", "1000000"},
		LogPath:  name + "_0.log",
		Linux: &runtime.LinuxContainerConfig{
			Resources:       &runtime.LinuxContainerResources{CpuShares: 100},
			SecurityContext: &runtime.LinuxContainerSecurityContext{NamespaceOptions: p.namespaces()},
		},
	}
	for _, e := range edits {
		e(c)
	}
	return c
}

// namespaces gives the pod's options to its containers, as the kubelet does.
func (p *Pod) namespaces() *runtime.NamespaceOption {
	o := p.Config.GetLinux().GetSecurityContext().GetNamespaceOptions()
	return &runtime.NamespaceOption{Network: o.GetNetwork(), Pid: o.GetPid(), Ipc: o.GetIpc(), UsernsOptions: o.GetUsernsOptions()}
}

// TryCreate asks for a container and gives what the daemon answers.
func (p *Pod) TryCreate(ctx context.Context, c *runtime.ContainerConfig) (string, error) {
	r, err := p.Node.Daemon.Runtime.CreateContainer(ctx, &runtime.CreateContainerRequest{PodSandboxId: p.ID, Config: c, SandboxConfig: p.Config})
	return r.GetContainerId(), err
}

// Create makes a container, pulling its image where it is missing.
func (p *Pod) Create(t testing.TB, name string, edits ...func(*runtime.ContainerConfig)) *Container {
	t.Helper()
	c := p.ContainerConfig(name, edits...)
	if s, err := p.Node.Daemon.Images.ImageStatus(Context(t), &runtime.ImageStatusRequest{Image: c.Image}); err != nil || s.Image == nil {
		p.Node.Pull(t, c.Image.Image)
	}
	id, err := p.TryCreate(Context(t), c)
	if err != nil {
		t.Fatalf("CreateContainer %s: %v", name, err)
	}
	return &Container{ID: id, Config: c, Pod: p}
}

// Run makes and starts a container.
func (p *Pod) Run(t testing.TB, name string, edits ...func(*runtime.ContainerConfig)) *Container {
	t.Helper()
	c := p.Create(t, name, edits...)
	c.Start(t)
	return c
}

// RunToEnd runs a container until it has ended and gives its log's text and its exit code.
func (p *Pod) RunToEnd(t testing.TB, name string, edits ...func(*runtime.ContainerConfig)) (string, int32) {
	t.Helper()
	c := p.Run(t, name, edits...)
	return c.Ended(t)
}

// Start starts the container.
func (c *Container) Start(t testing.TB) {
	t.Helper()
	if _, err := c.Pod.Node.Daemon.Runtime.StartContainer(Context(t), &runtime.StartContainerRequest{ContainerId: c.ID}); err != nil {
		t.Fatalf("StartContainer %s: %v", c.Config.Metadata.Name, err)
	}
}

// Stop stops the container with a grace of so many seconds.
func (c *Container) Stop(t testing.TB, grace int64) {
	t.Helper()
	if _, err := c.Pod.Node.Daemon.Runtime.StopContainer(Context(t), &runtime.StopContainerRequest{ContainerId: c.ID, Timeout: grace}); err != nil {
		t.Fatalf("StopContainer %s: %v", c.Config.Metadata.Name, err)
	}
}

// Remove removes the container.
func (c *Container) Remove(t testing.TB) {
	t.Helper()
	if _, err := c.Pod.Node.Daemon.Runtime.RemoveContainer(Context(t), &runtime.RemoveContainerRequest{ContainerId: c.ID}); err != nil {
		t.Fatalf("RemoveContainer %s: %v", c.Config.Metadata.Name, err)
	}
}

// Status is the container's status.
func (c *Container) Status(t testing.TB) *runtime.ContainerStatus {
	t.Helper()
	r, err := c.Pod.Node.Daemon.Runtime.ContainerStatus(Context(t), &runtime.ContainerStatusRequest{ContainerId: c.ID})
	if err != nil {
		t.Fatalf("ContainerStatus %s: %v", c.Config.Metadata.Name, err)
	}
	return r.Status
}

// Ended waits until the container has ended and gives its log's text and exit code.
func (c *Container) Ended(t testing.TB) (string, int32) {
	t.Helper()
	var s *runtime.ContainerStatus
	Eventually(t, "container "+c.Config.Metadata.Name+" ends", func() bool {
		s = c.Status(t)
		return s.State == runtime.ContainerState_CONTAINER_EXITED
	})
	return c.LogText(t), s.ExitCode
}

// Exec runs a command in the container and gives its stdout; another exit code than 0 fails the test.
func (c *Container) Exec(t testing.TB, argv ...string) string {
	t.Helper()
	r, err := c.Pod.Node.Daemon.Runtime.ExecSync(Context(t), &runtime.ExecSyncRequest{ContainerId: c.ID, Cmd: argv, Timeout: 90})
	if err != nil {
		t.Fatalf("ExecSync %q: %v", argv, err)
	}
	if r.ExitCode != 0 {
		t.Fatalf("ExecSync %q exits with %d: %s%s", argv, r.ExitCode, r.Stdout, r.Stderr)
	}
	return string(r.Stdout)
}

// LogFile is the path of the container's log.
func (c *Container) LogFile() string {
	return filepath.Join(c.Pod.Config.LogDirectory, c.Config.LogPath)
}

// LogLine is one entry of a CRI log.
type LogLine struct {
	Time   time.Time
	Stream string
	Tag    string // F or P
	Text   string
}

// ReadLog parses a CRI log; a malformed entry fails the test.
func ReadLog(t testing.TB, path string) []LogLine {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var lines []LogLine
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		part := strings.SplitN(s.Text(), " ", 4)
		if len(part) != 4 {
			t.Fatalf("%s: entry %q has not four parts", path, s.Text())
		}
		at, err := time.Parse(time.RFC3339Nano, part[0])
		if err != nil || (part[1] != "stdout" && part[1] != "stderr") || (part[2] != "F" && part[2] != "P") {
			t.Fatalf("%s: entry %q is malformed (%v)", path, s.Text(), err)
		}
		lines = append(lines, LogLine{at, part[1], part[2], part[3]})
	}
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
	return lines
}

// LogText is what the container wrote on stdout and stderr, put together again from its log.
func (c *Container) LogText(t testing.TB) string {
	t.Helper()
	var b strings.Builder
	for _, l := range ReadLog(t, c.LogFile()) {
		b.WriteString(l.Text)
		if l.Tag == "F" {
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// AwaitLog waits until the log holds text.
func (c *Container) AwaitLog(t testing.TB, text string) {
	t.Helper()
	Eventually(t, fmt.Sprintf("log of %s holds %q", c.Config.Metadata.Name, text), func() bool {
		b, err := os.ReadFile(c.LogFile())
		return err == nil && strings.Contains(string(b), text)
	})
}
