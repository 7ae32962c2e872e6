package spec

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/cri/model"
)

func TestArgumentsFollowKubernetes(t *testing.T) {
	for name, tc := range map[string]struct{ entrypoint, cmd, command, args, want []string }{
		"image only":        {[]string{"e"}, []string{"c"}, nil, nil, []string{"e", "c"}},
		"command":           {[]string{"e"}, []string{"c"}, []string{"x"}, nil, []string{"x"}},
		"args":              {[]string{"e"}, []string{"c"}, nil, []string{"y"}, []string{"e", "y"}},
		"command and args":  {[]string{"e"}, []string{"c"}, []string{"x"}, []string{"y"}, []string{"x", "y"}},
		"Cmd only":          {nil, []string{"c"}, nil, nil, []string{"c"}},
		"args for Cmd only": {nil, []string{"c"}, nil, []string{"y"}, []string{"y"}},
	} {
		t.Run(name, func(t *testing.T) {
			in := input(t)
			in.Image.Config.Entrypoint, in.Image.Config.Cmd = tc.entrypoint, tc.cmd
			in.Config.Command, in.Config.Args = tc.command, tc.args
			if got := build(t, testNode(), in).Argv; !slices.Equal(got, tc.want) {
				t.Errorf("argv %q, want %q", got, tc.want)
			}
		})
	}
	in := input(t)
	in.Image.Config.Cmd = nil
	wantError(t, testNode(), in, errdefs.IsInvalidArgument, "command")
	in.Image.Config.Cmd = []string{""}
	wantError(t, testNode(), in, errdefs.IsInvalidArgument, "empty")
}

func TestEnvironmentIsLayered(t *testing.T) {
	in := input(t)
	in.Config.TTY = true
	in.Image.Config.Env = []string{"A=image", "B=image", "EMPTY="}
	in.Config.Envs = []model.Env{{Key: "B", Value: []byte("one\ntwo=3 ")}, {Key: "C", Value: []byte("1")}, {Key: "C", Value: []byte("2")}}
	want := []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME=pod-0", "TERM=xterm",
		"A=image", "B=one\ntwo=3 ", "EMPTY=", "C=2",
	}
	if got := build(t, testNode(), in).Spec.Process.Env; !slices.Equal(got, want) {
		t.Errorf("environment %q, want %q", got, want)
	}
	in.Image.Config.Env = []string{"PATH=/opt", "TERM=vt100"}
	if got := build(t, testNode(), in).Spec.Process.Env; got[0] != "PATH=/opt" || got[2] != "TERM=vt100" {
		t.Errorf("environment %q", got)
	}
	for _, bad := range []string{"NOVALUE", "=x", "A=\x00"} {
		in.Image.Config.Env = []string{bad}
		wantError(t, testNode(), in, errdefs.IsInvalidArgument, "environment")
	}
	in.Image.Config.Env = nil
	in.Config.Envs = []model.Env{{Key: "RAW", Value: []byte("\xff")}}
	wantError(t, testNode(), in, errdefs.IsNotImplemented, "RAW")
}

func TestWorkingDirectory(t *testing.T) {
	for asked, want := range map[string]string{"": "/img", "/srv": "/srv", "srv/../x": "/x"} {
		in := input(t)
		in.Image.Config.WorkingDir, in.Config.WorkingDir = "/img", asked
		if got := build(t, testNode(), in).Spec.Process.Cwd; got != want {
			t.Errorf("%q gave %q, want %q", asked, got, want)
		}
	}
	// CVE-2024-21626: a leaked descriptor of the runtime as working directory.
	for _, bad := range []string{"/proc/self/fd/7", "/proc/1/fd", "//proc/./self/fd/8/../7", "/proc/self/task/1/fd/3", "/proc/self/root"} {
		in := input(t)
		in.Image.Config.WorkingDir = bad
		wantError(t, testNode(), in, errdefs.IsInvalidArgument, "working directory")
	}
}

func TestStopSignal(t *testing.T) {
	for name, tc := range map[string]struct{ image, asked, want string }{
		"default":         {"", "", "SIGTERM"},
		"image":           {"SIGQUIT", "", "SIGQUIT"},
		"image by number": {"37", "", "SIGRTMIN+3"},
		"image, short":    {"rtmin+3", "", "SIGRTMIN+3"},
		"request":         {"SIGQUIT", "SIGUSR1", "SIGUSR1"},
	} {
		in := input(t)
		in.Image.Config.StopSignal, in.Config.StopSignal = tc.image, tc.asked
		if got := build(t, testNode(), in).StopSignal; got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
	in := input(t)
	in.Image.Config.StopSignal = "SIGNOPE"
	wantError(t, testNode(), in, errdefs.IsInvalidArgument, "SIGNOPE")
}

func number64(n int64) *int64 { return &n }

func TestUserIsResolvedInTheImage(t *testing.T) {
	for name, tc := range map[string]struct {
		image string
		sec   model.Security
		want  model.User
	}{
		"root by default":         {"", model.Security{}, model.User{SupplementalGroups: []int64{0}}},
		"image user by name":      {"web", model.Security{}, model.User{UID: 1000, GID: 2000, SupplementalGroups: []int64{2000, 3000, 3001}}},
		"image user by number":    {"1000", model.Security{}, model.User{UID: 1000, GID: 2000, SupplementalGroups: []int64{2000, 3000, 3001}}},
		"image user and group":    {"web:alone", model.Security{}, model.User{UID: 1000, GID: 3002, SupplementalGroups: []int64{3002, 3000, 3001}}},
		"image numbers":           {"7:8", model.Security{}, model.User{UID: 7, GID: 8, SupplementalGroups: []int64{8}}},
		"image group alone":       {":alone", model.Security{}, model.User{GID: 3002, SupplementalGroups: []int64{3002}}},
		"number without an entry": {"", model.Security{RunAsUser: number64(77)}, model.User{UID: 77, SupplementalGroups: []int64{0}}},
		"asked user drops the image's group": {"web:alone", model.Security{RunAsUser: number64(77)},
			model.User{UID: 77, SupplementalGroups: []int64{0}}},
		"asked group wins": {"web", model.Security{RunAsUser: number64(1000), RunAsGroup: number64(9)},
			model.User{UID: 1000, GID: 9, SupplementalGroups: []int64{9, 3000, 3001}}},
		"asked name": {"", model.Security{RunAsUsername: "web"},
			model.User{UID: 1000, GID: 2000, SupplementalGroups: []int64{2000, 3000, 3001}}},
		"merged groups": {"web", model.Security{SupplementalGroups: []int64{5, 3000}},
			model.User{UID: 1000, GID: 2000, SupplementalGroups: []int64{2000, 3000, 3001, 5}}},
		"strict groups": {"web", model.Security{SupplementalGroups: []int64{5}, StrictGroups: true},
			model.User{UID: 1000, GID: 2000, SupplementalGroups: []int64{2000, 5}}},
		"highest number": {"4294967294", model.Security{}, model.User{UID: 4294967294, SupplementalGroups: []int64{0}}},
	} {
		t.Run(name, func(t *testing.T) {
			in := input(t)
			in.Image.Config.User = tc.image
			tc.sec.Namespaces = in.Config.Security.Namespaces
			in.Config.Security = tc.sec
			out := build(t, testNode(), in)
			if out.User.UID != tc.want.UID || out.User.GID != tc.want.GID || !slices.Equal(out.User.SupplementalGroups, tc.want.SupplementalGroups) {
				t.Errorf("user %+v, want %+v", out.User, tc.want)
			}
			p := out.Spec.Process.User
			if int64(p.UID) != tc.want.UID || int64(p.GID) != tc.want.GID || !slices.Contains(p.AdditionalGids, p.GID) {
				t.Errorf("process runs as %+v", p)
			}
		})
	}
}

func TestUserThatCannotBeIsRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		image string
		sec   model.Security
	}{
		"unknown name":             {"nobody", model.Security{}},
		"unknown group":            {"web:nobody", model.Security{}},
		"CVE-2024-40635: wraps":    {"4294967296", model.Security{}},
		"wraps in 64 bits":         {"18446744073709551616", model.Security{}},
		"the kernel's no user":     {"4294967295", model.Security{}},
		"group that wraps":         {"web:4294967296", model.Security{}},
		"entry that wraps":         {"huge", model.Security{}},
		"negative":                 {"-1", model.Security{}},
		"with a newline":           {"web\nroot", model.Security{}},
		"asked name not in image":  {"", model.Security{RunAsUsername: "nobody"}},
		"asked name that's number": {"", model.Security{RunAsUsername: "1000"}},
	} {
		t.Run(name, func(t *testing.T) {
			in := input(t)
			in.Image.Config.User = tc.image
			tc.sec.Namespaces = in.Config.Security.Namespaces
			in.Config.Security = tc.sec
			wantError(t, testNode(), in, errdefs.IsInvalidArgument, "")
		})
	}
}

func TestAccountsAreReadInsideTheImageOnly(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "passwd")
	write(t, outside, "spy:x:4242:0::/:\n")
	link := func(target string) func(string) error {
		return func(file string) error { return os.Symlink(target, file) }
	}
	for name, tc := range map[string]struct {
		place   func(file string) error
		user    string
		uid     int64
		mention string
	}{
		"link out of the image":    {link(outside), "spy", 0, "not in the image"},
		"link that climbs out":     {link("../../../../../../.." + outside), "spy", 0, "not in the image"},
		"absolute link inside":     {link("/usr/lib/passwd"), "in", 9, ""},
		"climbing link inside":     {link("../../../usr/lib/passwd"), "in", 9, ""},
		"link to a process's file": {link("/proc/self/environ"), "in", 0, "not in the image"},
		"link to itself":           {link("passwd"), "in", 0, "read /etc/passwd"},
		"FIFO":                     {func(f string) error { return unix.Mkfifo(f, 0o644) }, "in", 0, "plain file"},
		"folder":                   {func(f string) error { return os.Mkdir(f, 0o755) }, "in", 0, "plain file"},
		"too large": {func(f string) error {
			if err := os.WriteFile(f, nil, 0o644); err != nil {
				return err
			}
			return os.Truncate(f, 5<<20)
		}, "in", 0, "more than"},
		"absent":            {func(string) error { return nil }, "in", 0, "not in the image"},
		"absent, by number": {func(string) error { return nil }, "12", 12, ""},
	} {
		t.Run(name, func(t *testing.T) {
			in := input(t)
			file := filepath.Join(in.Rootfs, "etc/passwd")
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(in.Rootfs, "usr/lib/passwd"), "in:x:9:9::/:\n")
			if err := tc.place(file); err != nil {
				t.Fatal(err)
			}
			in.Image.Config.User = tc.user
			if tc.mention != "" {
				wantError(t, testNode(), in, errdefs.IsInvalidArgument, tc.mention)
				return
			}
			if got := build(t, testNode(), in).User.UID; got != tc.uid {
				t.Errorf("user %d, want %d", got, tc.uid)
			}
		})
	}
}

// CVE-2024-5154, CVE-2022-4318: nothing of the image decides over a file that is written; nothing is written at all.
func TestRootFilesystemIsNotWritten(t *testing.T) {
	in := input(t)
	victim := filepath.Join(t.TempDir(), "victim")
	if err := os.Symlink(victim, filepath.Join(in.Rootfs, "etc/mtab")); err != nil {
		t.Fatal(err)
	}
	in.Config.Envs = []model.Env{{Key: "HOME", Value: []byte("/\nroot2:x:0:0::/:/bin/sh")}}
	before := tree(t, in.Rootfs)
	build(t, testNode(), in)
	if after := tree(t, in.Rootfs); after != before {
		t.Errorf("root filesystem changed from\n%s to\n%s", before, after)
	}
	if _, err := os.Lstat(victim); !os.IsNotExist(err) {
		t.Errorf("the host's file was touched: %v", err)
	}
}

func tree(t *testing.T, root string) string {
	t.Helper()
	var out strings.Builder
	err := filepath.Walk(root, func(p string, st os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		out.WriteString(p + " " + st.Mode().String() + " " + st.ModTime().String() + "\n")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestOOMScoreIsNeverInherited(t *testing.T) {
	for name, tc := range map[string]struct {
		asked *model.Resources
		want  int
	}{
		"no resources": {nil, 0}, "no score": {&model.Resources{}, 0}, "a score": {&model.Resources{OOMScoreAdj: 968}, 968}, "below 0": {&model.Resources{OOMScoreAdj: -998}, -998},
	} {
		in := input(t)
		in.Config.Resources = tc.asked
		if got := build(t, testNode(), in).Spec.Process.OOMScoreAdj; got == nil || *got != tc.want {
			t.Errorf("%s: score %v, want %d", name, got, tc.want)
		}
	}
}
