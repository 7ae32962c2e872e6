package cri

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"

	"github.com/cri-pouch/cri-pouch/cri/model"
	"github.com/cri-pouch/cri-pouch/snapshot"
)

// shelfOfVolumes stands for package snapshot: places of the image, and paths of predecessors.
type shelfOfVolumes struct {
	Volumes
	before   []string
	places   map[string]snapshot.Place
	prepared *snapshot.NewVolumes
	swept    bool
	removal  error
}

func (f *shelfOfVolumes) Paths(context.Context, string, string) ([]string, error) {
	return f.before, nil
}

func (f *shelfOfVolumes) Resolve(_, path string) (snapshot.Place, error) {
	if strings.HasPrefix(path, "/loop") {
		return snapshot.Place{}, fmt.Errorf("in a circle: %w", errdefs.ErrInvalidArgument)
	}
	if p, ok := f.places[path]; ok {
		return p, nil
	}
	return snapshot.Place{Path: path, Kind: snapshot.PlaceFolder}, nil
}

func (f *shelfOfVolumes) Prepare(_ context.Context, r snapshot.NewVolumes) ([]snapshot.Volume, error) {
	f.prepared = &r
	var out []snapshot.Volume
	for _, p := range r.Paths {
		out = append(out, snapshot.Volume{Path: p, Dir: "/volumes" + p})
	}
	return out, nil
}

func TestWhichPathsBecomeVolumes(t *testing.T) {
	folder := func(at string) snapshot.Place { return snapshot.Place{Path: at, Kind: snapshot.PlaceFolder} }
	other := func(at string) snapshot.Place { return snapshot.Place{Path: at, Kind: snapshot.PlaceOther} }
	many := make([]string, 65)
	for i := range many {
		many[i] = fmt.Sprintf("/v%d", i)
	}
	for _, test := range []struct {
		name     string
		declared []string
		persist  []string
		before   []string
		mounts   []string
		places   map[string]snapshot.Place
		want     []string // places of the mounts, in their order
		paths    []string // that are prepared, where that needs to be told
		rich     string
		mention  string // of the error
	}{
		{name: "none"},
		{name: "nested ones by depth", declared: []string{"/a/b/c", "/a"}, persist: []string{"/a/b"}, want: []string{"/a", "/a/b", "/a/b/c"}},
		{name: "asked for twice", declared: []string{"/a"}, persist: []string{"/a"}, before: []string{"/a"}, want: []string{"/a"}},
		{name: "a relative VOLUME", declared: []string{"data/"}, want: []string{"/data"}},
		{name: "no longer declared", before: []string{"/old"}, declared: []string{"/new"}, want: []string{"/new", "/old"}},
		{name: "a mount at the path", declared: []string{"/a", "/b"}, persist: []string{"/c"}, mounts: []string{"/a", "/c"}, want: []string{"/b"}},
		{name: "a mount above it", declared: []string{"/a/b"}, persist: []string{"/a/c/d"}, mounts: []string{"/a"}},
		{name: "a mount below it", declared: []string{"/a"}, mounts: []string{"/a/b"}, want: []string{"/a"}},
		{name: "a mount with a like name", declared: []string{"/ab"}, mounts: []string{"/a"}, want: []string{"/ab"}},
		{name: "a mount at the place that it leads to", declared: []string{"/var/run/x"}, mounts: []string{"/run"}, places: map[string]snapshot.Place{"/var/run/x": folder("/run/x")}},
		{name: "a mount that leads there", declared: []string{"/run/x"}, mounts: []string{"/var/run"}, places: map[string]snapshot.Place{"/var/run": folder("/run")}},
		{name: "two paths to one place", declared: []string{"/run", "/var/run"}, places: map[string]snapshot.Place{"/var/run": folder("/run")}, want: []string{"/run"}},
		{name: "two paths to one place, of which a predecessor had the second", declared: []string{"/run", "/var/run"}, before: []string{"/var/run"},
			places: map[string]snapshot.Place{"/var/run": folder("/run")}, want: []string{"/run"}, paths: []string{"/var/run"}},
		{name: "a symlink", declared: []string{"/link"}, places: map[string]snapshot.Place{"/link": folder("/srv/data")}, want: []string{"/srv/data"}},
		{name: "what the kernel fills", declared: []string{"/sys/fs/cgroup", "/dev/shm", "/proc/x", "/run"}, want: []string{"/run"}},
		{name: "files that we mount", persist: []string{"/etc/hosts", "/etc"}, declared: []string{"/etc/resolv.conf"}, want: []string{"/etc"}},
		{name: "former ones that no longer fit", before: []string{"/file", "/slash", "/kernel", "/fine", "/loop"},
			places: map[string]snapshot.Place{"/file": other("/file"), "/slash": folder("/"), "/kernel": folder("/proc")}, want: []string{"/fine"}},
		{name: "what systemd finds empty", rich: "systemd", declared: []string{"/run", "/tmp", "/var/lock", "/run/app", "/data"}, before: []string{"/var/run"},
			places: map[string]snapshot.Place{"/var/run": folder("/run"), "/var/lock": folder("/run/lock")}, want: []string{"/data", "/run/app"}},
		{name: "a small init", rich: "dumb-init", declared: []string{"/run", "/tmp"}, want: []string{"/run", "/tmp"}},

		{name: "/tmp of systemd", rich: "systemd", declared: []string{"/tmp"}, persist: []string{"/tmp"}, mention: "/tmp leads to /tmp"},
		{name: "/run of systemd", rich: "systemd", persist: []string{"/var/run"}, places: map[string]snapshot.Place{"/var/run": folder("/run")}, mention: "/var/run leads to /run"},
		{name: "VOLUME /", declared: []string{"/"}, mention: `VOLUME "/"`},
		{name: "VOLUME /proc", declared: []string{"/proc/"}, mention: `VOLUME "/proc/"`},
		{name: "VOLUME /sys", declared: []string{"/sys"}, mention: `VOLUME "/sys"`},
		{name: "VOLUME /dev", declared: []string{"//dev"}, mention: `VOLUME "//dev"`},
		{name: "VOLUME with ..", declared: []string{"/a/../../etc"}, mention: "'..'"},
		{name: "VOLUME with a newline", declared: []string{"/a\nb"}, mention: "control character"},
		{name: "VOLUME that is a file", declared: []string{"/file"}, places: map[string]snapshot.Place{"/file": other("/file")}, mention: "/file is no folder"},
		{name: "a file that is persisted", persist: []string{"/etc/passwd"}, places: map[string]snapshot.Place{"/etc/passwd": other("/etc/passwd")}, mention: "annotation " + persistAnnotation},
		{name: "a symlink to the root", persist: []string{"/slash"}, places: map[string]snapshot.Place{"/slash": folder("/")}, mention: "leads to / in the image"},
		{name: "a symlink to the kernel's", persist: []string{"/p"}, places: map[string]snapshot.Place{"/p": folder("/proc/self")}, mention: "leads to /proc/self"},
		{name: "symlinks in a circle", persist: []string{"/loop/x"}, mention: "/loop/x (annotation"},
		{name: "too many", declared: many, mention: "declares 65 VOLUMEs"},
		{name: "too many together", declared: many[:40], persist: many[40:], mention: "65 volumes"},
	} {
		shelf := &shelfOfVolumes{before: test.before, places: test.places}
		s := &Service{Options: Options{Volumes: shelf, Log: silent()}}
		cfg := model.ContainerConfig{Name: "app", Persist: test.persist}
		for _, m := range test.mounts {
			cfg.Mounts = append(cfg.Mounts, model.Mount{ContainerPath: m, HostPath: "/host"})
		}
		rec := model.Container{ID: "id", Config: cfg}
		if test.rich != "" {
			rec.Rich = &model.Rich{Mode: test.rich}
		}
		img := snapshot.Image{ID: "sha256:1"}
		img.Config = ocispec.Image{Config: ocispec.ImageConfig{Volumes: map[string]struct{}{}}}
		for _, d := range test.declared {
			img.Config.Config.Volumes[d] = struct{}{}
		}
		sb := model.Sandbox{Config: model.SandboxConfig{UID: "uid"}}
		got, err := s.volumes(context.Background(), sb, rec, img, "/rootfs")
		if test.mention != "" {
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), test.mention) {
				t.Errorf("%s: %v; want InvalidArgument that mentions %q", test.name, err, test.mention)
			}
			continue
		}
		var at []string
		for _, v := range got {
			at = append(at, v.ContainerPath)
		}
		if err != nil || !slices.Equal(at, test.want) {
			t.Errorf("%s: volumes at %q, %v; want %q", test.name, at, err, test.want)
		}
		if test.paths != nil && !slices.Equal(shelf.prepared.Paths, test.paths) {
			t.Errorf("%s: paths are %q, want %q", test.name, shelf.prepared.Paths, test.paths)
		}
		if len(test.want) == 0 && shelf.prepared != nil {
			t.Errorf("%s: volumes are prepared for nothing", test.name)
		}
		cfg.FreshVolumes = true
		if got, err := s.volumes(context.Background(), sb, model.Container{ID: "id", Config: cfg}, img, "/rootfs"); len(got) != 0 || err != nil {
			t.Errorf("%s: fresh gives %v, %v", test.name, got, err)
		}
	}
}

func TestTheLastSandboxOfAPodTakesTheVolumesAlong(t *testing.T) {
	x := newIndex()
	var all []*sandbox
	for _, id := range []string{"a", "b", "c"} {
		sb := newSandbox(model.Sandbox{ID: id, Config: model.SandboxConfig{UID: "uid"}})
		all = append(all, sb)
		x.addSandbox(sb)
	}
	x.addSandbox(newSandbox(model.Sandbox{ID: "other", Config: model.SandboxConfig{UID: "another"}}))
	if x.disown(all[0], "uid") || x.disown(all[1], "uid") || x.disown(all[0], "uid") {
		t.Error("volumes go although a sandbox of the pod stays")
	}
	if !x.disown(all[2], "uid") {
		t.Error("all three are being removed, and nobody takes the volumes along")
	}
	if !x.hasPod("uid") || x.hasPod("unknown") {
		t.Error("pods are not known by their UID")
	}
}

func (f *shelfOfVolumes) Sweep(func(string) bool) error { f.swept = true; return nil }

func (f *shelfOfVolumes) Purge(context.Context) error { return nil }

func (f *shelfOfVolumes) Remove(context.Context, string, func() bool) error { return f.removal }

// A sandbox whose record cannot be read has a UID that nobody knows: its volumes look like those of a former pod.
func TestVolumesAreSweptOnlyIfAllPodsAreKnown(t *testing.T) {
	for _, complete := range []bool{true, false} {
		shelf := &shelfOfVolumes{}
		s := &Service{Options: Options{Volumes: shelf, Log: silent()}, index: newIndex(), chores: newChores(silent())}
		s.sweepVolumes(complete)
		s.chores.stop()
		if shelf.swept != complete {
			t.Errorf("all records are read: %t; volumes are swept: %t", complete, shelf.swept)
		}
	}
}

// A file that cannot be removed keeps no sandbox; what keeps the volumes themselves does, so that the kubelet tries again.
func TestAPodGoesAlthoughFilesOfItsVolumesAreLeft(t *testing.T) {
	for _, test := range []struct {
		err  error
		stay bool
	}{{nil, false}, {fmt.Errorf("x: %w", snapshot.ErrLeftover), false}, {errdefs.ErrUnavailable, true}} {
		s := &Service{Options: Options{Volumes: &shelfOfVolumes{removal: test.err}, Log: silent()}, index: newIndex(), chores: newChores(silent())}
		if err := s.dropVolumes(context.Background(), newSandbox(model.Sandbox{ID: "a"})); (err != nil) != test.stay {
			t.Errorf("%v gives %v", test.err, err)
		}
		s.chores.stop()
	}
}

func silent() *logrus.Entry {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return logrus.NewEntry(l)
}
