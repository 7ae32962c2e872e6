package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

func TestBadSandboxesAreRefused(t *testing.T) {
	n := harness.Start(t)
	for name, x := range map[string]struct {
		edit func(*runtime.RunPodSandboxRequest)
		code codes.Code
		text string
	}{
		"no configuration":        {func(r *runtime.RunPodSandboxRequest) { r.Config = nil }, codes.InvalidArgument, "config"},
		"no metadata":             {func(r *runtime.RunPodSandboxRequest) { r.Config.Metadata = nil }, codes.InvalidArgument, "metadata"},
		"no name":                 {func(r *runtime.RunPodSandboxRequest) { r.Config.Metadata.Name = "" }, codes.InvalidArgument, "name"},
		"no uid":                  {func(r *runtime.RunPodSandboxRequest) { r.Config.Metadata.Uid = "" }, codes.InvalidArgument, "uid"},
		"unknown handler":         {func(r *runtime.RunPodSandboxRequest) { r.RuntimeHandler = "warp" }, codes.InvalidArgument, "warp"},
		"relative logs":           {func(r *runtime.RunPodSandboxRequest) { r.Config.LogDirectory = "logs" }, codes.InvalidArgument, "logs"},
		"hostname of a line":      {func(r *runtime.RunPodSandboxRequest) { r.Config.Hostname = "a\nb" }, codes.InvalidArgument, "hostname"},
		"hostname too long":       {func(r *runtime.RunPodSandboxRequest) { r.Config.Hostname = strings.Repeat("a", 65) }, codes.InvalidArgument, "hostname"},
		"cgroup above its parent": {func(r *runtime.RunPodSandboxRequest) { r.Config.Linux.CgroupParent = "/../../etc" }, codes.InvalidArgument, "cgroup"},
		"oversized labels":        {func(r *runtime.RunPodSandboxRequest) { r.Config.Labels["big"] = strings.Repeat("x", 8<<20) }, codes.InvalidArgument, "label"},
	} {
		t.Run(name, func(t *testing.T) {
			r := &runtime.RunPodSandboxRequest{Config: n.PodConfig(t)}
			x.edit(r)
			_, err := n.Daemon.Runtime.RunPodSandbox(harness.Context(t), r)
			wantCode(t, err, x.code, x.text)
			if got := listPods(t, n); len(got) != 0 {
				t.Errorf("there is a sandbox now: %v", got)
			}
		})
	}
	for name, call := range map[string]func() error{
		"status": func() error {
			_, err := n.Daemon.Runtime.PodSandboxStatus(harness.Context(t), &runtime.PodSandboxStatusRequest{PodSandboxId: "unknown-one"})
			return err
		},
		"start": func() error {
			_, err := n.Daemon.Runtime.StartContainer(harness.Context(t), &runtime.StartContainerRequest{ContainerId: "unknown-one"})
			return err
		},
		"create": func() error {
			p := &harness.Pod{ID: "unknown-one", Config: n.PodConfig(t), Node: n}
			_, err := p.TryCreate(harness.Context(t), p.ContainerConfig("app"))
			return err
		},
	} {
		t.Run(name+" of an unknown ID", func(t *testing.T) { wantCode(t, call(), codes.NotFound, "unknown-one") })
	}
}

func TestBadContainersAreRefused(t *testing.T) {
	n := harness.Start(t, harness.Config("[runtime]\ncreate_missing_host_paths = false"))
	p := n.RunPod(t)
	n.Pull(t, harness.Busybox)
	missing := filepath.Join(n.Dir, "not-there")
	for name, x := range map[string]struct {
		edit func(*runtime.ContainerConfig)
		text string
	}{
		"no metadata":               {func(c *runtime.ContainerConfig) { c.Metadata = nil }, "metadata"},
		"no name":                   {func(c *runtime.ContainerConfig) { c.Metadata.Name = "" }, "name"},
		"no image":                  {func(c *runtime.ContainerConfig) { c.Image = nil }, "image"},
		"absent image":              {func(c *runtime.ContainerConfig) { c.Image.Image = "images.test/absent:1" }, "images.test/absent:1"},
		"log path above its folder": {func(c *runtime.ContainerConfig) { c.LogPath = "../../escape.log" }, "escape.log"},
		"absolute log path":         {func(c *runtime.ContainerConfig) { c.LogPath = "/etc/escape.log" }, "escape.log"},
		"mount of a missing path": {func(c *runtime.ContainerConfig) {
			c.Mounts = []*runtime.Mount{{HostPath: missing, ContainerPath: "/x"}}
		}, missing},
		"image volume": {func(c *runtime.ContainerConfig) {
			c.Mounts = []*runtime.Mount{{Image: &runtime.ImageSpec{Image: harness.Busybox}, ContainerPath: "/x"}}
		}, "image"},
		"CDI device": {func(c *runtime.ContainerConfig) { c.CDIDevices = []*runtime.CDIDevice{{Name: "vendor.test/gpu=0"}} }, "CDI_devices"},
		"unknown capability": {func(c *runtime.ContainerConfig) {
			c.Linux.SecurityContext.Capabilities = &runtime.Capability{AddCapabilities: []string{"FLY"}}
		}, "FLY"},
		"user that the image lacks": {func(c *runtime.ContainerConfig) { c.Linux.SecurityContext.RunAsUsername = "nobodyknows" }, "nobodyknows"},
		"user beyond 32 bits": {func(c *runtime.ContainerConfig) {
			c.Linux.SecurityContext.RunAsUser = &runtime.Int64Value{Value: 1 << 32}
		}, "4294967296"},
		"group without a user": {func(c *runtime.ContainerConfig) { c.Linux.SecurityContext.RunAsGroup = &runtime.Int64Value{Value: 1} }, "user"},
		"seccomp profile not there": {func(c *runtime.ContainerConfig) {
			c.Linux.SecurityContext.Seccomp = &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_Localhost, LocalhostRef: missing}
		}, "not-there"},
		"environment without a name": {func(c *runtime.ContainerConfig) { c.Envs = []*runtime.KeyValue{{Key: "", Value: []byte("x")}} }, "env"},
		"device that is not there": {func(c *runtime.ContainerConfig) {
			c.Devices = []*runtime.Device{{HostPath: missing, ContainerPath: "/dev/x", Permissions: "rwm"}}
		}, missing},
		"recursive read-only but rw": {func(c *runtime.ContainerConfig) {
			c.Mounts = []*runtime.Mount{{HostPath: n.Dir, ContainerPath: "/x", RecursiveReadOnly: true}}
		}, "ead"},
		"working directory of a file": {func(c *runtime.ContainerConfig) { c.WorkingDir = "/etc/passwd" }, "/etc/passwd"},
	} {
		t.Run(name, func(t *testing.T) {
			c := p.ContainerConfig("app", x.edit)
			id, err := p.TryCreate(harness.Context(t), c)
			if err == nil && name == "working directory of a file" {
				_, err = n.Daemon.Runtime.StartContainer(harness.Context(t), &runtime.StartContainerRequest{ContainerId: id})
			}
			wantError(t, err, x.text)
			if id != "" {
				if _, err := n.Daemon.Runtime.RemoveContainer(harness.Context(t), &runtime.RemoveContainerRequest{ContainerId: id}); err != nil {
					t.Error(err)
				}
			}
			if got := listContainers(t, n, nil); len(got) != 0 {
				t.Errorf("there is a container now: %v", got)
			}
		})
	}
	if _, err := os.Lstat(missing); err == nil {
		t.Error("the missing path of a mount was made on the node")
	}
	t.Run("in a stopped sandbox", func(t *testing.T) {
		if _, err := n.Daemon.Runtime.StopPodSandbox(harness.Context(t), &runtime.StopPodSandboxRequest{PodSandboxId: p.ID}); err != nil {
			t.Fatal(err)
		}
		_, err := p.TryCreate(harness.Context(t), p.ContainerConfig("late"))
		wantCode(t, err, codes.FailedPrecondition, p.ID)
	})
}
