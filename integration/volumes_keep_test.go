package integration

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
	"github.com/cri-pouch/cri-pouch/integration/lab"
)

// Owner, mode and attributes of the image's files are those of the volume's, as the container sees them.
func TestVolumesKeepOwnersModesAndAttributes(t *testing.T) {
	n := harness.Start(t)
	capability := string([]byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	ref := pushVolumes(t, n, "owners", []string{"/data"}, lab.File{Name: "data/", Mode: 0o2750, UID: 1000, GID: 1500},
		lab.File{Name: "data/file", Mode: 0o640, UID: 7, GID: 8, Xattrs: map[string]string{"user.note": "kept"}},
		lab.File{Name: "data/tool", Mode: 0o4755, UID: 9, GID: 10, Xattrs: map[string]string{"security.capability": capability}},
		lab.File{Name: "data/dir/", Mode: 0o1777}, lab.File{Name: "data/link", Link: "file"}, lab.File{Name: "home/app/", UID: 1000, GID: 1000}, lab.File{Name: "home/app/file", UID: 1000, GID: 1000})
	p := n.RunPod(t, annotated(persist, "/home/app"))
	for attempt := range uint32(2) {
		c := p.Run(t, "app", image(ref, attempt))
		got := c.Exec(t, "sh", "-c", "cd /data; stat -c '%n %a %u:%g %Y' . file tool dir; stat -c '%u %Y' /home/app /home/app/file; readlink link")
		want := ". 2750 1000:1500 1700000000\nfile 640 7:8 1700000000\ntool 4755 9:10 1700000000\ndir 1777 0:0 1700000000\n1000 1700000000\n1000 1700000000\nfile\n"
		if got != want {
			t.Errorf("attempt %d sees\n%swant\n%s", attempt, got, want)
		}
		c.Stop(t, 0)
	}
	dir := filepath.Join(n.RootDir(), "volumes", p.Config.Metadata.Uid, "app/data/fs")
	for name, want := range map[string][2]string{"file": {"user.note", "kept"}, "tool": {"security.capability", capability}} {
		if got := getXattr(t, filepath.Join(dir, name), want[0]); got != want[1] {
			t.Errorf("%s of %s is %q", want[0], name, got)
		}
	}
}

// A pod in a user namespace owns its volumes, those of the image's files and those that are made empty, and so does its
// successor in a rebuilt sandbox.
func TestVolumesInAUserNamespace(t *testing.T) {
	n := harness.Start(t)
	ref := pushVolumes(t, n, "userns", []string{"/data", "/empty"}, lab.File{Name: "data/root", Mode: 0o600, Content: []byte("root's\n")},
		lab.File{Name: "data/app", Mode: 0o600, UID: 1000, GID: 1500, Content: []byte("app's\n")})
	in := func(host uint32) func(*runtime.PodSandboxConfig) {
		return func(c *runtime.PodSandboxConfig) {
			ids := []*runtime.IDMapping{{ContainerId: 0, HostId: host, Length: 65536}}
			c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &runtime.UserNamespace{Mode: runtime.NamespaceMode_POD, Uids: ids, Gids: ids}
		}
	}
	check := "cat /data/root /data/app && stat -c '%n %u:%g' /data /data/root /data/app /empty && touch /empty/w$0 /data/w$0 && stat -c '%u:%g' /empty/w$0 && chown 5:6 /empty/w$0 && stat -c '%u:%g' /empty/w0"
	want := "root's\napp's\n/data 0:0\n/data/root 0:0\n/data/app 1000:1500\n/empty 0:0\n0:0\n5:6\n"
	p := n.RunPod(t, in(100000))
	for attempt := range uint32(2) {
		c := p.Run(t, "app", image(ref, attempt))
		if got := c.Exec(t, "sh", "-c", check, fmt.Sprint(attempt)); got != want {
			t.Errorf("attempt %d sees %q, want %q", attempt, got, want)
		}
		c.Stop(t, 0)
	}
	dir := filepath.Join(n.RootDir(), "volumes", p.Config.Metadata.Uid, "app")
	if got := numericOwner(t, filepath.Join(dir, "data/fs/app")); got != "101000:101500" {
		t.Errorf("on the host the file belongs to %s", got)
	}
	// The kubelet keeps a pod's mapping; another client need not.
	for i, edit := range []func(*runtime.PodSandboxConfig){in(300000), func(c *runtime.PodSandboxConfig) { c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = nil }} {
		again := n.PodConfig(t, edit)
		again.Metadata.Uid, again.Metadata.Attempt = p.Config.Metadata.Uid, uint32(i+1)
		next := n.RunPodConfig(t, again)
		c := next.Run(t, "app", image(ref, 2+uint32(i)))
		if got := c.Exec(t, "sh", "-c", check, fmt.Sprint(2+i)); got != want {
			t.Errorf("with another mapping (%d) the container sees %q, want %q", i, got, want)
		}
	}
}

// A sandbox that is built anew has the volumes of its pod; the last one takes them along.
func TestVolumesLiveAsLongAsTheirPod(t *testing.T) {
	n := harness.Start(t)
	ref := pushVolumes(t, n, "pods", []string{"/data"})
	first := n.RunPod(t)
	c := first.Run(t, "app", image(ref, 0))
	c.Exec(t, "sh", "-c", "echo written >/data/w")
	if _, err := n.Daemon.Runtime.StopPodSandbox(harness.Context(t), &runtime.StopPodSandboxRequest{PodSandboxId: first.ID}); err != nil {
		t.Fatal(err)
	}
	again := n.PodConfig(t)
	again.Metadata.Uid, again.Metadata.Attempt = first.Config.Metadata.Uid, 1
	second := n.RunPodConfig(t, again)
	first.Remove(t)
	other := n.RunPod(t).Run(t, "app", image(ref, 0))
	if got := other.Exec(t, "ls", "/data"); got != "" {
		t.Errorf("another pod sees %q", got)
	}
	for _, restart := range []bool{false, true} {
		if restart {
			n.KillDaemon(t)
			n.StartDaemon(t)
		}
		next := second.Run(t, "app", image(ref, 1), func(c *runtime.ContainerConfig) {
			if restart {
				c.Metadata.Attempt = 2
			}
		})
		if got := next.Exec(t, "cat", "/data/w"); got != "written\n" {
			t.Errorf("in the new sandbox: %q", got)
		}
		next.Stop(t, 0)
		next.Remove(t)
	}
	second.Remove(t)
	other.Pod.Remove(t)
	wantNoVolumes(t, n)
	// The same UID once more is another pod's life, as a static pod's of the same manifest.
	third := n.PodConfig(t)
	third.Metadata.Uid = first.Config.Metadata.Uid
	if got := n.RunPodConfig(t, third).Run(t, "app", image(ref, 0)).Exec(t, "ls", "/data"); got != "" {
		t.Errorf("after the pod's end there is %q", got)
	}
}

// With volumes: fresh each container has its VOLUMEs in its own writable layer; the annotation may come and go.
func TestFreshVolumesOptOut(t *testing.T) {
	n := harness.Start(t)
	ref := pushVolumes(t, n, "fresh", []string{"/data"}, lab.File{Name: "data/seed", Content: []byte("seed\n")})
	p := n.RunPod(t, annotated(volumes, "fresh"))
	attempt := uint32(0)
	next := func(want string) {
		t.Helper()
		c := p.Run(t, "app", image(ref, attempt))
		if got := c.Exec(t, "sh", "-c", "ls /data; echo w >/data/w"); got != want {
			t.Errorf("attempt %d sees %q, want %q", attempt, got, want)
		}
		c.Stop(t, 0)
		attempt++
	}
	next("seed\n")
	next("seed\n")
	wantNoVolumes(t, n)
	p.Config.Annotations[volumes] = "keep"
	next("seed\n")
	next("seed\nw\n")
	p.Config.Annotations = map[string]string{volumes + ".other": "fresh"}
	next("seed\nw\n")
	p.Config.Annotations[volumes+".app"] = "fresh"
	next("seed\n")
	delete(p.Config.Annotations, volumes+".app")
	next("seed\nw\n")
}

// Annotations are those of the pod when the container is made, not when the sandbox was.
func TestPersistedPathsOfALivePod(t *testing.T) {
	n := harness.Start(t)
	ref := pushVolumes(t, n, "persist", nil, lab.File{Name: "etc/app/conf", Content: []byte("image\n")})
	p := n.RunPod(t)
	c := p.Run(t, "app", image(ref, 0))
	c.Exec(t, "sh", "-c", "echo lost >/etc/app/conf")
	c.Stop(t, 0)
	annotated(persist, "/none", persist+".app", "/etc/app")(p.Config)
	c = p.Run(t, "app", image(ref, 1))
	if got := c.Exec(t, "sh", "-c", "cat /etc/app/conf; echo kept >/etc/app/conf; ls / | grep none; true"); got != "image\n" {
		t.Errorf("the first one with the annotation sees %q", got)
	}
	c.Stop(t, 0)
	p.Config.Annotations = nil // the path is kept until the pod goes
	c = p.Run(t, "app", image(ref, 2))
	if got := c.Exec(t, "cat", "/etc/app/conf"); got != "kept\n" {
		t.Errorf("the next one sees %q", got)
	}
}

// An init container has volumes of its own name; run again, it finds them.
func TestInitContainersHaveVolumes(t *testing.T) {
	n := harness.Start(t)
	ref := pushVolumes(t, n, "init", []string{"/data"})
	p := n.RunPod(t)
	for attempt, want := range []string{"1\n", "2\n"} {
		got, code := p.RunToEnd(t, "setup", image(ref, uint32(attempt)), harness.Sh("echo x >>/data/w; wc -l </data/w"), func(c *runtime.ContainerConfig) {
			c.LogPath = fmt.Sprintf("setup_%d.log", attempt)
		})
		if got != want || code != 0 {
			t.Errorf("run %d: %q, exit code %d", attempt, got, code)
		}
	}
	if got := p.Run(t, "app", image(ref, 0)).Exec(t, "ls", "/data"); got != "" {
		t.Errorf("the application sees the init container's volume: %q", got)
	}
}

func TestTheSeedOfVolumesIsLimited(t *testing.T) {
	n := harness.Start(t, harness.Config("[upgrade]\nvolume_seed_limit = \"2MiB\"\nvolume_seed_entries = 1000\n"))
	var many []lab.File
	for i := range 1001 {
		many = append(many, lab.File{Name: fmt.Sprintf("many/%d", i)})
	}
	large := lab.File{Name: "large/file", Content: make([]byte, 3<<20)}
	p := n.RunPod(t)
	for path, setting := range map[string]string{"/large": "upgrade.volume_seed_limit", "/many": "upgrade.volume_seed_entries"} {
		ref := pushVolumes(t, n, "too"+strings.TrimPrefix(path, "/"), []string{"/data", path}, append(many, large)...)
		n.Pull(t, ref)
		_, err := p.TryCreate(harness.Context(t), p.ContainerConfig("app", image(ref, 0)))
		wantCode(t, err, codes.ResourceExhausted, path)
		wantCode(t, err, codes.ResourceExhausted, setting, volumes+": fresh")
		t.Log(err)
		if dirs := volumeDirs(t, n); len(dirs) != 0 {
			t.Errorf("left are %v", dirs)
		}
	}
	ref := pushVolumes(t, n, "fits", []string{"/data", "/large"}, lab.File{Name: "large/file", Content: make([]byte, 1<<20)})
	c := p.Run(t, "app", image(ref, 0))
	// The limit is the seed's, not the volume's.
	if got := c.Exec(t, "sh", "-c", "cat /large/file /large/file /large/file >/data/more; wc -c </data/more"); got != "3145728\n" {
		t.Errorf("the container writes %q", got)
	}
}

// What a container that could not be made has seeded is no first image's.
func TestVolumesOfAFailedCreateAreNotInherited(t *testing.T) {
	n := harness.Start(t)
	bad := pushVolumes(t, n, "bad", []string{"/data"}, lab.File{Name: "data/seed", Content: []byte("bad\n")})
	good := pushVolumes(t, n, "good", []string{"/data"}, lab.File{Name: "data/seed", Content: []byte("good\n")})
	n.Pull(t, bad)
	p := n.RunPod(t)
	_, err := p.TryCreate(harness.Context(t), p.ContainerConfig("app", image(bad, 0), func(c *runtime.ContainerConfig) {
		c.Linux.SecurityContext.RunAsUsername = "nobody-of-that-name"
	}))
	wantError(t, err, "nobody-of-that-name")
	if got := p.Run(t, "app", image(good, 0)).Exec(t, "cat", "/data/seed"); got != "good\n" {
		t.Errorf("the volume has %q", got)
	}
}

func TestVolumesCountAsWritableLayer(t *testing.T) {
	n := harness.Start(t)
	ref := pushVolumes(t, n, "stats", []string{"/data"})
	p := n.RunPod(t, annotated(persist, "/srv/state"))
	c := p.Run(t, "app", image(ref, 0))
	plain := p.Run(t, "plain")
	c.Exec(t, "sh", "-c", "head -c 6000000 /dev/urandom >/data/file; mkdir /srv/state/d; for i in $(seq 50); do head -c 20000 /dev/urandom >/srv/state/d/$i; done; head -c 1000000 /dev/urandom >/own; sync")
	for _, list := range []bool{false, true} {
		stats := func(id string) *runtime.FilesystemUsage {
			if !list {
				r, err := n.Daemon.Runtime.ContainerStats(harness.Context(t), &runtime.ContainerStatsRequest{ContainerId: id})
				if err != nil {
					t.Fatal(err)
				}
				return r.Stats.WritableLayer
			}
			r, err := n.Daemon.Runtime.ListContainerStats(harness.Context(t), &runtime.ListContainerStatsRequest{Filter: &runtime.ContainerStatsFilter{Id: id}})
			if err != nil || len(r.Stats) != 1 {
				t.Fatal(r, err)
			}
			return r.Stats[0].WritableLayer
		}
		harness.Eventually(t, "bytes and inodes of volumes are counted", func() bool {
			w := stats(c.ID)
			return w.UsedBytes.Value >= 8_000_000 && w.UsedBytes.Value < 12_000_000 && w.InodesUsed.Value >= 55
		})
		if w := stats(plain.ID); w.UsedBytes.Value > 1_000_000 {
			t.Errorf("a container without volumes uses %d bytes", w.UsedBytes.Value)
		}
	}
	fs, err := n.Daemon.Images.ImageFsInfo(harness.Context(t), &runtime.ImageFsInfoRequest{})
	if err != nil || len(fs.ContainerFilesystems) != 1 || fs.ContainerFilesystems[0].UsedBytes.GetValue() > 6_000_000 {
		t.Errorf("the images' filesystem: %v, %v; volumes are no part of the images", fs, err)
	}
}

// Containers of one pod are made side by side, each with volumes of its own.
func TestVolumesOfManyContainersAtOnce(t *testing.T) {
	n := harness.Start(t)
	ref := pushVolumes(t, n, "many", []string{"/data", "/more"}, lab.File{Name: "data/seed", Content: []byte("seed\n")})
	n.Pull(t, ref)
	p := n.RunPod(t)
	ids := make([]string, 8)
	errs := make([]error, len(ids))
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			c := p.ContainerConfig("app", image(ref, uint32(i/4)))
			if i%4 > 0 {
				c.Metadata.Name = fmt.Sprintf("app%d", i%4)
			}
			ids[i], errs[i] = p.TryCreate(harness.Context(t), c)
		})
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			t.Fatalf("container %d: %v", i, err)
		}
		c := &harness.Container{ID: ids[i], Pod: p, Config: p.ContainerConfig("app")}
		c.Start(t)
		if got := c.Exec(t, "cat", "/data/seed"); got != "seed\n" {
			t.Errorf("container %d sees %q", i, got)
		}
	}
	if dirs := volumeDirs(t, n); len(dirs) != 8 {
		t.Errorf("%d volumes: %v", len(dirs), dirs)
	}
}

// A volume that no image declares any more waits for one that does, also where the image in between has a file there.
func TestAFormerVolumeDoesNotStopAnImageThatHasAFileThere(t *testing.T) {
	n := harness.Start(t)
	folder := pushVolumes(t, n, "folder", []string{"/data"})
	file := pushVolumes(t, n, "file", nil, lab.File{Name: "data", Content: []byte("file\n")})
	declared := pushVolumes(t, n, "declared", []string{"/data"}, lab.File{Name: "data", Content: []byte("file\n")})
	p := n.RunPod(t)
	p.Run(t, "app", image(folder, 0)).Exec(t, "sh", "-c", "echo kept >/data/w")
	if got := p.Run(t, "app", image(file, 1)).Exec(t, "cat", "/data"); got != "file\n" {
		t.Errorf("the image with a file shows %q", got)
	}
	n.Pull(t, declared)
	_, err := p.TryCreate(harness.Context(t), p.ContainerConfig("app", image(declared, 2)))
	wantCode(t, err, codes.InvalidArgument, "/data is no folder in the image")
	if got := p.Run(t, "app", image(folder, 2)).Exec(t, "cat", "/data/w"); got != "kept\n" {
		t.Errorf("back at the first image: %q", got)
	}
}

// A user namespace knows only some owners; what belongs to others is nobody's, as in the root filesystem, and does not keep
// the container from being made.
func TestVolumesWithOwnersThatTheUserNamespaceDoesNotKnow(t *testing.T) {
	n := harness.Start(t)
	ref := pushVolumes(t, n, "unmapped", []string{"/data"}, lab.File{Name: "data/closed", Mode: 0o600, UID: 70000}, lab.File{Name: "data/open", UID: 70000, GID: 70000, Content: []byte("open\n")},
		lab.File{Name: "data/dir/", Mode: 0o700, UID: 70000, GID: 70000}, lab.File{Name: "data/dir/file"}, lab.File{Name: "data/link", Link: "open", UID: 70000})
	p := n.RunPod(t, func(c *runtime.PodSandboxConfig) {
		ids := []*runtime.IDMapping{{ContainerId: 0, HostId: 100000, Length: 65536}}
		c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &runtime.UserNamespace{Mode: runtime.NamespaceMode_POD, Uids: ids, Gids: ids}
	})
	c := p.Run(t, "app", image(ref, 0))
	if got := c.Exec(t, "sh", "-c", "cd /data; ls; cat link; stat -c %u open dir link"); got != "dir\nlink\nopen\nopen\n65534\n65534\n65534\n" {
		t.Errorf("the container sees %q", got)
	}
	if log := n.Daemon.LogTail(100_000); !strings.Contains(log, "left out of the volume") || !strings.Contains(log, "/closed") {
		t.Error("the log does not say what was left out")
	}
}
