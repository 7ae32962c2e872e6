package rich

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
	"github.com/cri-pouch/cri-pouch/integration/lab"
)

const prefix = "rich.cri-pouch.io/"

// boot is how long an init may take until the application's first line.
const boot = 2 * time.Minute

// machine is an image with the mode that it is for.
type machine struct{ image, mode string }

func (m machine) name() string { return m.image + "," + m.mode }

// machines have a real init as pid 1.
var machines = []machine{
	{"systemd", "systemd"}, {"trixie", "systemd"}, {"bullseye", "systemd"}, {"forky", "systemd"},
	{"systemd", "sbin-init"}, {"sysvinit", "sbin-init"}, {"busybox", "sbin-init"},
}

// systemds are the images of machines with systemd.
var systemds = []string{"systemd", "trixie", "bullseye", "forky"}

func imagesDir(t testing.TB) string {
	t.Helper()
	if dir := os.Getenv("CRI_POUCH_RICH_IMAGES"); dir != "" {
		return dir
	}
	return filepath.Join(harness.Top(t), "build/rich")
}

// base gives the layers of an image of that name: one of rich-images.sh, or "busybox" with its init, or "static" with
// nothing but the probe. The test is skipped where the image was not built.
func base(t testing.TB, name string) []v1.Layer {
	t.Helper()
	dir := imagesDir(t)
	probe, err := lab.ProbeFile(filepath.Join(dir, "probe"))
	if err != nil {
		t.Skipf("%v: make build-tests", err)
	}
	files := []lab.File{probe}
	var layers []v1.Layer
	switch name {
	case "static":
	case "busybox":
		more, err := lab.BusyboxFiles()
		if err != nil {
			t.Fatal(err)
		}
		files = append(append(files, lab.BusyboxInit()...), more...)
	default:
		l, err := lab.RootfsLayer(dir, name)
		if errors.Is(err, os.ErrNotExist) {
			t.Skipf("the image %s is not built: make rich-images (for some make rich-images-all)", name)
		}
		if err != nil {
			t.Fatal(err)
		}
		layers = append(layers, l)
	}
	return append(layers, layer(t, files...))
}

func layer(t testing.TB, files ...lab.File) v1.Layer {
	t.Helper()
	l, err := lab.Layer(files...)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// push puts the image into the node's registry, with files on top and its configuration edited, and gives its reference.
func push(t testing.TB, n *harness.Node, image, tag string, edit func(*v1.ConfigFile), files ...lab.File) string {
	t.Helper()
	layers := base(t, image)
	if len(files) > 0 {
		layers = append(layers, layer(t, files...))
	}
	img, err := lab.Image(edit, layers...)
	if err == nil {
		err = n.Images.Push(image+":"+tag, img)
	}
	if err != nil {
		t.Fatalf("push image %s: %v", image, err)
	}
	return n.Ref(image + ":" + tag)
}

// pod gives options of a pod whose containers are in a mode; pairs are further annotations without their prefix.
func pod(mode string, pairs ...string) func(*runtime.PodSandboxConfig) {
	return func(c *runtime.PodSandboxConfig) {
		if c.Annotations == nil {
			c.Annotations = map[string]string{}
		}
		if mode != "" {
			c.Annotations[prefix+"mode"] = mode
		}
		for i := 0; i+1 < len(pairs); i += 2 {
			c.Annotations[prefix+pairs[i]] = pairs[i+1]
		}
	}
}

// userns gives the pod a user namespace.
func userns(c *runtime.PodSandboxConfig) {
	ids := []*runtime.IDMapping{{HostId: 400000, ContainerId: 0, Length: 65536}}
	c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &runtime.UserNamespace{Mode: runtime.NamespaceMode_POD, Uids: ids, Gids: ids}
}

// probe makes the container run the probe of an image with these actions.
func probe(ref string, actions ...string) func(*runtime.ContainerConfig) {
	return image(ref, append([]string{lab.Probe}, actions...)...)
}

// image makes the container run a command of an image, with the paths masked that the kubelet masks.
func image(ref string, argv ...string) func(*runtime.ContainerConfig) {
	return func(c *runtime.ContainerConfig) {
		c.Image = &runtime.ImageSpec{Image: ref, UserSpecifiedImage: ref}
		c.Command = argv
		c.Linux.SecurityContext.MaskedPaths = []string{"/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
			"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"}
		c.Linux.SecurityContext.ReadonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
	}
}

// each runs a subtest for every machine whose image was built, each on a node of its own.
func each(t *testing.T, list []machine, test func(t *testing.T, n *harness.Node, m machine, ref string)) {
	t.Helper()
	for _, m := range list {
		t.Run(m.name(), func(t *testing.T) {
			t.Parallel()
			base(t, m.image)
			n := harness.Start(t)
			ref := push(t, n, m.image, "1", nil)
			test(t, n, m, ref)
		})
	}
}

// report is what the probe's action of that name prints.
type report struct {
	Args, Env [][]byte
	UID, GID  int
	Groups    []int
	Dir       string
	Umask     int
	PID       int
	Stdin     string
	Limits    string
	Status    map[string]string
}

// readReport waits until the probe has logged "reported" behind its report, and gives that.
func readReport(t testing.TB, c *harness.Container) report {
	t.Helper()
	c.AwaitLine(t, boot, "reported")
	var r report
	for line := range strings.Lines(c.LogText(t)) {
		if strings.HasPrefix(line, `{"Args":`) {
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				t.Fatalf("report: %v", err)
			}
		}
	}
	if len(r.Args) == 0 {
		t.Fatalf("there is no report in the log:\n%s", c.LogText(t))
	}
	slices.Sort(r.Groups)
	return r
}

func words(list [][]byte) (out []string) {
	for _, b := range list {
		out = append(out, string(b))
	}
	return out
}

// hex reads a set of capabilities as /proc writes it.
func hex(t testing.TB, set string) uint64 {
	t.Helper()
	bits, err := strconv.ParseUint(strings.TrimSpace(set), 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	return bits
}

// exec runs a command in the container and gives exit code and both streams.
func exec(t testing.TB, c *harness.Container, argv ...string) (int32, string) {
	t.Helper()
	r, err := c.Pod.Node.Daemon.Runtime.ExecSync(harness.Context(t), &runtime.ExecSyncRequest{ContainerId: c.ID, Cmd: argv, Timeout: int64(harness.Patience(time.Minute).Seconds())})
	if err != nil {
		t.Fatalf("ExecSync %q: %v", argv, err)
	}
	return r.ExitCode, strings.TrimSpace(string(r.Stdout) + string(r.Stderr))
}

// refused fails the test unless the container is refused by CreateContainer, with the code and an error that holds the parts.
func refused(t testing.TB, p *harness.Pod, code codes.Code, c *runtime.ContainerConfig, parts ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(harness.Context(t), harness.Patience(harness.LongEnough))
	defer cancel()
	p.Node.Pull(t, c.Image.Image)
	_, err := p.TryCreate(ctx, c)
	if status.Code(err) != code {
		t.Errorf("%s: error is %v, wanted code %s", c.Metadata.Name, err, code)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%s: error is %q, wanted %q in it", c.Metadata.Name, err, part)
		}
	}
}

// probePid finds the application of a container among the processes of the host: it can be told something while no daemon runs.
func probePid(t testing.TB, c *harness.Container) int {
	t.Helper()
	pids, err := lab.WithCommand(func(args []string) bool { return args[0] == lab.Probe })
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid)); err == nil && strings.Contains(string(b), c.ID) {
			return pid
		}
	}
	t.Fatalf("the application of %s does not run", c.Config.Metadata.Name)
	return 0
}

func versionFile(version string) lab.File {
	return lab.File{Name: "version", Content: []byte(version + "\n")}
}
