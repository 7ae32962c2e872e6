package richcontainer

import (
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/richrun"
)

func TestUnitsThatAnnotationsName(t *testing.T) {
	needRoot(t)
	brought := rootfs(t, map[string]string{"own.service": "[Service]\nExecStart=/bin/x\n[Install]\nAlias=other.service\n", "each@.service": "[Service]\nExecStart=/bin/x\n"})
	for name, tc := range map[string]struct {
		unit  string
		files map[string]string
		mount string
		gone  bool
	}{
		"the image's":                      {unit: "network-online.target"},
		"the administrator's of the image": {unit: "a.service", files: map[string]string{"etc/systemd/system/a.service": "[Service]\n"}},
		"another name of one":              {unit: "sshd.service", files: map[string]string{"etc/systemd/system/sshd.service": "-> /lib/systemd/system/ssh.service", "usr/lib/systemd/system/ssh.service": "[Service]\n"}},
		"an instance":                      {unit: "postgresql@15-main.service", files: map[string]string{"usr/lib/systemd/system/postgresql@.service": "[Service]\n"}},
		"made of a script":                 {unit: "old.service", files: map[string]string{"etc/init.d/old": "#!/bin/sh\n"}},
		"one that the pod brings in":       {unit: "own.service"},
		"an instance of one":               {unit: "each@1.service"},
		"by an alias in [Install]":         {unit: "other.service"},
		"made by systemd without a file":   {unit: "srv-data.mount"},
		"perhaps in what the pod mounts":   {unit: "a.service", mount: "/etc/systemd/system"},
		"misspelled":                       {unit: "ngnix.service", gone: true},
		"an instance of nothing":           {unit: "no@1.service", gone: true},
		"a script is no socket":            {unit: "old.socket", files: map[string]string{"etc/init.d/old": "#!/bin/sh\n"}, gone: true},
		"a link out of the image":          {unit: "a.service", files: map[string]string{"etc/systemd/system/a.service": "-> ../../../../../../../../proc/self/environ"}, gone: true},
	} {
		for _, option := range []string{"after", "watch-units"} {
			t.Run(option+", "+name, func(t *testing.T) {
				r := request(t, Systemd, rootfs(t, debian(tc.files)))
				r.Spec.Mounts = append(r.Spec.Mounts, specs.Mount{Destination: "/units", Type: "bind", Source: brought})
				if tc.mount != "" {
					r.Spec.Mounts = append(r.Spec.Mounts, specs.Mount{Destination: tc.mount, Type: "bind", Source: "/x"})
				}
				r.Choice.Options.UnitsFrom = "/units"
				if option == "after" {
					r.Choice.Options.After = []string{tc.unit}
				} else {
					r.Choice.Options.WatchUnits = []string{tc.unit}
				}
				_, err := v1.Prepare(r)
				if tc.gone {
					wantError(t, err, errdefs.IsInvalidArgument, Prefix+option, tc.unit, "/lib/systemd/system", Prefix+"units-from")
				} else if err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// Of a unit that is watched systemd tells the name that it has itself, never an alias.
func TestAWatchedUnitIsKnownByItsOwnName(t *testing.T) {
	needRoot(t)
	brought := rootfs(t, map[string]string{"own.service": "[Install]\nAlias=other.service\n", "each@.service": "[Service]\n"})
	for name, tc := range map[string]struct {
		unit, want string
		files      map[string]string
	}{
		"its own":               {"ssh.service", "ssh.service", map[string]string{"usr/lib/systemd/system/ssh.service": "[Service]\n"}},
		"an alias":              {"sshd.service", "ssh.service", map[string]string{"etc/systemd/system/sshd.service": "-> /lib/systemd/system/ssh.service", "usr/lib/systemd/system/ssh.service": "[Service]\n"}},
		"an alias of an alias":  {"a.service", "c.service", map[string]string{"etc/systemd/system/a.service": "-> b.service", "etc/systemd/system/b.service": "-> /usr/lib/systemd/system/c.service", "usr/lib/systemd/system/c.service": "[Service]\n"}},
		"an alias of instances": {"web@1.service", "site@1.service", map[string]string{"etc/systemd/system/web@.service": "-> /usr/lib/systemd/system/site@.service", "usr/lib/systemd/system/site@.service": "[Service]\n"}},
		"of a linked file":      {"a.service", "a.service", map[string]string{"etc/systemd/system/a.service": "-> /opt/b.service", "opt/b.service": "[Service]\n"}},
		"of a script":           {"old.service", "old.service", map[string]string{"etc/init.d/old": "#!/bin/sh\n"}},
		"of the pod":            {"other.service", "own.service", nil},
		"an instance":           {"each@1.service", "each@1.service", nil},
		"the administrator's":   {"a.service", "b.service", map[string]string{"usr/lib/systemd/system/a.service": "[Service]\n", "etc/systemd/system/a.service": "-> b.service", "etc/systemd/system/b.service": "[Service]\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := request(t, Systemd, rootfs(t, debian(tc.files)))
			r.Spec.Mounts = append(r.Spec.Mounts, specs.Mount{Destination: "/units", Type: "bind", Source: brought})
			r.Choice.Options.UnitsFrom, r.Choice.Options.WatchUnits = "/units", []string{tc.unit}
			if tc.unit != tc.want {
				r.Choice.Options.WatchUnits = append(r.Choice.Options.WatchUnits, tc.want)
			}
			if _, err := v1.Prepare(r); err != nil {
				t.Fatal(err)
			}
			if got := made(t, r, "units/"+tc.want+".d/50-pouch.conf"); got != reporting {
				t.Errorf("drop-in %q", got)
			}
			if plan, err := richrun.ReadPlan(r.Bundle); err != nil || !slices.Equal(plan.WatchUnits, []string{tc.want}) {
				t.Errorf("watched are %v, %v", plan.WatchUnits, err)
			}
		})
	}
}

func TestMaskedUnitsCannotBeNamed(t *testing.T) {
	needRoot(t)
	const own, theirs = "masked in every container", "which the image masks"
	for name, tc := range map[string]struct {
		unit, want string
		files      map[string]string
	}{
		"by us":                   {"systemd-udevd.service", own, nil},
		"by us, an instance":      {"getty@tty1.service", own, nil},
		"by us, an alias":         {"dbus-org.freedesktop.network1.service", own, map[string]string{"usr/lib/systemd/system/dbus-org.freedesktop.network1.service": "-> systemd-networkd.service", "usr/lib/systemd/system/systemd-networkd.service": "[Service]\n"}},
		"by the image":            {"a.service", theirs, map[string]string{"etc/systemd/system/a.service": "-> /dev/null", "usr/lib/systemd/system/a.service": "[Service]\n"}},
		"by the image, indirect":  {"a.service", theirs, map[string]string{"etc/systemd/system/a.service": "-> x", "etc/systemd/system/x": "-> ../../../dev/null"}},
		"by the image, a device":  {"a.service", theirs, map[string]string{"etc/systemd/system/a.service": "-> /dev/null", "dev/null": ""}},
		"by the image, empty":     {"a.service", theirs, map[string]string{"etc/systemd/system/a.service": "", "usr/lib/systemd/system/a.service": "[Service]\n"}},
		"by the image, the alias": {"sshd.service", "systemctl unmask ssh.service", map[string]string{"etc/systemd/system/sshd.service": "-> /lib/systemd/system/ssh.service", "etc/systemd/system/ssh.service": "-> /dev/null", "usr/lib/systemd/system/ssh.service": "[Service]\n"}},
		"in a circle":             {"a.service", "circle", map[string]string{"etc/systemd/system/a.service": "-> b.service", "etc/systemd/system/b.service": "-> a.service"}},
	} {
		for _, option := range []string{"after", "watch-units"} {
			t.Run(option+", "+name, func(t *testing.T) {
				r := request(t, Systemd, rootfs(t, debian(tc.files)))
				if option == "after" {
					r.Choice.Options.After = []string{tc.unit}
				} else {
					r.Choice.Options.WatchUnits = []string{tc.unit}
				}
				_, err := v1.Prepare(r)
				wantError(t, err, errdefs.IsInvalidArgument, "systemd mode (annotation rich.cri-pouch.io/mode)", "annotation "+Prefix+option+" names the unit "+tc.unit, tc.want)
			})
		}
	}
}

// Who owns a file in a volume may hold a lease on it: others who open it are kept waiting for 45 s each.
func TestAUnitThatIsLeasedIsRefusedAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.service")
	if err := os.WriteFile(path, []byte("[Service]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	holder, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	signal.Ignore(unix.SIGIO) // what the holder is told by
	defer signal.Reset(unix.SIGIO)
	if _, err := unix.FcntlInt(holder.Fd(), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
		t.Skipf("leases: %v", err)
	}
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	begun := time.Now()
	if _, err := readPlain(f, "a.service", 100); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "lease") {
		t.Errorf("error is %v", err)
	}
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("the refusal took %s", took)
	}
}
