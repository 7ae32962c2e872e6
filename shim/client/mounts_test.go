package client_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// sharedVolume is a mount that tells others of mounts below it, with one there already.
func (l *lab) sharedVolume() string {
	l.t.Helper()
	volume := filepath.Join(l.state, "volume")
	if err := os.Mkdir(volume, 0o755); err != nil {
		l.t.Fatal(err)
	}
	l.mountAt(volume)
	if err := unix.Mount("", volume, "", unix.MS_SHARED, ""); err != nil {
		l.t.Fatal(err)
	}
	for _, d := range []string{"before", "after", "inside"} {
		if err := os.Mkdir(filepath.Join(volume, d), 0o755); err != nil {
			l.t.Fatal(err)
		}
	}
	l.mountAt(filepath.Join(volume, "before"))
	if err := os.WriteFile(filepath.Join(volume, "before", "seen"), nil, 0o644); err != nil {
		l.t.Fatal(err)
	}
	return volume
}

func (l *lab) mountAt(dir string) {
	l.t.Helper()
	if err := unix.Mount("volume", dir, "tmpfs", 0, ""); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

func TestPropagationOfBindMounts(t *testing.T) {
	for name, tc := range map[string]struct {
		options       []string
		root          string
		before, after string // what is seen below the mount
		outside       bool   // whether the host sees what is mounted inside
	}{
		"private":               {[]string{"rbind", "rprivate"}, "rslave", "seen\n", "", false},
		"host to container":     {[]string{"rbind", "rslave"}, "rslave", "seen\n", "seen\n", false},
		"bidirectional":         {[]string{"rbind", "rshared"}, "rshared", "seen\n", "seen\n", true},
		"private, root shared":  {[]string{"rbind", "rprivate"}, "rshared", "seen\n", "", false},
		"not recursive":         {[]string{"bind", "rprivate"}, "rslave", "", "", false},
		"nothing said":          {[]string{"rbind"}, "rslave", "seen\n", "seen\n", false},
		"nothing said, default": {[]string{"rbind"}, "", "seen\n", "seen\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			volume := l.sharedVolume()
			spec := l.spec("c", "sh", "-c", "busybox mount -t tmpfs x /v/inside && echo mounted; sleep 1000")
			spec.Linux.RootfsPropagation = tc.root
			spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/v", Type: "bind", Source: volume, Options: tc.options})
			for _, set := range []*[]string{&spec.Process.Capabilities.Bounding, &spec.Process.Capabilities.Effective, &spec.Process.Capabilities.Permitted} {
				*set = append(slices.Clone(*set), "CAP_SYS_ADMIN")
			}
			l.run(l.request("c", spec))
			l.mountAt(filepath.Join(volume, "after"))
			if err := os.WriteFile(filepath.Join(volume, "after", "seen"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
			if out, _ := l.exec("c", "ls", "/v/before"); out != tc.before {
				t.Errorf("of what was mounted before the container is seen %q", out)
			}
			if out, _ := l.exec("c", "ls", "/v/after"); out != tc.after {
				t.Errorf("of what is mounted later is seen %q", out)
			}
			l.eventually("it has mounted something", func() bool { return l.text("c", "stdout") == "mounted\n" })
			if got := strings.Contains(l.mountTable(), filepath.Join(volume, "inside")); got != tc.outside {
				t.Errorf("seen on the host: %t", got)
			}
			l.kill("c")
			l.finish("c")
			_ = unix.Unmount(filepath.Join(volume, "inside"), unix.MNT_DETACH)
			if !strings.Contains(l.mountTable(), filepath.Join(volume, "before")) {
				t.Error("the end of a container has unmounted something of the host's")
			}
		})
	}
}

func (l *lab) mountTable() string {
	l.t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		l.t.Fatal(err)
	}
	return string(b)
}

func TestBindMountsOfFilesAndFlags(t *testing.T) {
	l := newLab(t)
	file := filepath.Join(l.state, "file")
	if err := os.WriteFile(file, []byte("content\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(l.state, "link")
	if err := os.Symlink("file", link); err != nil {
		t.Fatal(err)
	}
	spec := l.spec("c", "sh", "-c", "cat /v/file /v/link; echo more >>/v/link || echo refused; grep ' /v/' /proc/self/mountinfo | cut -d' ' -f4-6")
	spec.Mounts = append(spec.Mounts,
		specs.Mount{Destination: "/v/file", Type: "bind", Source: file, Options: []string{"bind"}},
		specs.Mount{Destination: "/v/link", Type: "bind", Source: link, Options: []string{"bind", "ro", "nosuid"}})
	l.run(l.request("c", spec))
	l.finish("c")
	out := l.text("c", "stdout")
	root := strings.TrimPrefix(file, "/run") // the file's path in its file system, where /run is one
	for _, want := range []string{"content\ncontent\nrefused\n", root + " /v/file rw", root + " /v/link ro,nosuid"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in:\n%s", want, out)
		}
	}
}

func TestBindMountWhoseSourceIsAbsent(t *testing.T) {
	l := newLab(t)
	absent := filepath.Join(l.state, "absent")
	spec := l.spec("c", "true")
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/v", Type: "bind", Source: absent, Options: []string{"bind"}})
	if _, err := l.client.Create(l.ctx, l.request("c", spec)); err == nil || !strings.Contains(err.Error(), absent) || !strings.Contains(err.Error(), "no such file") {
		t.Error(err)
	}
	l.gone("c")
	spec.Mounts[len(spec.Mounts)-1] = specs.Mount{Destination: "/proc/self", Type: "bind", Source: l.logs, Options: []string{"bind"}}
	if _, err := l.client.Create(l.ctx, l.request("c", spec)); err == nil || !strings.Contains(err.Error(), l.logs) || strings.Contains(err.Error(), "shim/mounts") {
		t.Errorf("libcontainer's error does not name the mount's source: %v", err)
	}
	l.gone("c")
}
