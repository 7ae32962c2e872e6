package richcontainer

import (
	"bytes"
	"fmt"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/cri-pouch/cri-pouch/internal/richrun"
)

// systemdPaths are where images have systemd.
var systemdPaths = []string{"/usr/lib/systemd/systemd", "/lib/systemd/systemd"}

const (
	sbinInit = "/sbin/init"
	// sigrtmin3 makes systemd shut down and exit (systemd(1), SIGRTMIN+3).
	sigrtmin3 = 37
	// maxInit bounds the program of an init that is looked into, in bytes.
	maxInit = 32 << 20
	// systemd 256 boots with cgroup v1 only if it is told to, 258 not at all.
	systemdWithoutV1, systemdNeverV1 = 256, 258
)

// findSystemd gives the image's systemd; empty: it has none. As /sbin/init counts only what leads to a file of that name.
func findSystemd(image *image) (string, error) {
	for _, p := range append(systemdPaths, sbinInit) {
		f, there, err := image.look(p)
		if err != nil {
			return "", err
		}
		if there && f.program(0) && path.Base(f.path) == "systemd" {
			return p, nil
		}
	}
	return "", nil
}

func (n Node) systemd(r Request, image *image) (Prepared, error) {
	at, err := findSystemd(image)
	if err != nil {
		return Prepared{}, r.Choice.refuse(errdefs.ErrInvalidArgument, "look for systemd: %w", err)
	}
	if at == "" {
		return Prepared{}, r.Choice.refuse(errdefs.ErrInvalidArgument,
			"the image has no systemd: there is no program at %s, and %s does not lead to one: install it in the image (on Debian the packages systemd and systemd-sysv), or choose another mode", strings.Join(systemdPaths, " or "), sbinInit)
	}
	version, err := systemdVersion(image, at)
	if err != nil {
		return Prepared{}, r.Choice.refuse(errdefs.ErrInvalidArgument, "%w", err)
	}
	cgroups, err := n.hierarchyFor(r, version)
	if err != nil {
		return Prepared{}, err
	}
	i, err := n.realInit(r, image, at)
	if err != nil {
		return Prepared{}, err
	}
	i.plan.Shutdown, i.plan.Init = sigrtmin3, richrun.InitSystemd
	if err := i.writableCgroups(cgroups); err != nil {
		return Prepared{}, err
	}
	for _, m := range systemdTmpfs() {
		if err := i.tmpfs(m.path, m.mode); err != nil {
			return Prepared{}, err
		}
	}
	i.folder.file(machineIDFile, []byte(machineID(r.PodUID)+"\n"), 0o444)
	if err := i.over("/etc/machine-id", machineIDFile); err != nil {
		return Prepared{}, err
	}
	if err := i.environment(); err != nil {
		return Prepared{}, err
	}
	if err := i.units(); err != nil {
		return Prepared{}, err
	}
	// Ours come first, then systemd's own places (systemd(1), SYSTEMD_UNIT_PATH: a colon at the end).
	return i.finish(systemdArgs(at, version, cgroups), []string{"SYSTEMD_UNIT_PATH=" + path.Join(richrun.Folder, unitsDir) + ":"})
}

// systemdArgs gives pid 1's command line. In a container systemd reads it for what the kernel's would say.
func systemdArgs(at string, version int, cgroups hierarchy) []string {
	argv := []string{at}
	if cgroups == namedV1 && version >= systemdWithoutV1 {
		argv = append(argv, "SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1")
	}
	return argv
}

// sharedLibrary is the name of the library that systemd's programs are linked to.
var sharedLibrary = regexp.MustCompile(`libsystemd-(?:shared|core)-([0-9]{1,4})`)

// systemdVersion finds the version in the program; 0 where it does not show.
func systemdVersion(image *image, at string) (int, error) {
	b, err := image.read(at, maxInit)
	if err != nil {
		return 0, err
	}
	m := sharedLibrary.FindSubmatch(b)
	if m == nil {
		return 0, nil
	}
	return strconv.Atoi(string(m[1]))
}

const (
	appUnit    = ownUnits + "app.service"
	failedUnit = ownUnits + "unit-failed@.service"
	// reporting is the drop-in of a unit whose failure is recorded.
	reporting = "[Unit]\nOnFailure=" + ownUnits + "unit-failed@%n.service\n"
)

// appUnitText is the launcher as a service. The application may make cgroups of its own (Delegate); an OOM kill in it is
// the launcher's to tell; systemd does not start it again.
func (i *realInit) appUnitText() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "[Unit]\nDescription=Application of container %s\n", unitText(i.r.Container))
	if after := i.r.Choice.Options.After; len(after) > 0 {
		fmt.Fprintf(&b, "After=%s\nWants=%s\n", strings.Join(after, " "), strings.Join(after, " "))
	}
	fmt.Fprintf(&b, `
[Service]
Type=simple
ExecStart=%s
Delegate=yes
KillMode=mixed
OOMPolicy=continue
IgnoreSIGPIPE=no
Restart=no
TasksMax=infinity
LimitNOFILE=infinity
StandardInput=null
StandardOutput=journal+console
StandardError=journal+console
`, path.Join(richrun.Folder, richrun.LaunchFile))
	return b.Bytes()
}

// units makes the folder of units, which are before those of the image: the application's, those that make no sense in a
// container as masks, and what the pod and the administrator want.
func (i *realInit) units() error {
	in := func(name string) string { return path.Join(unitsDir, name) }
	i.folder.file(in(appUnit), i.appUnitText(), 0o644)
	// The default target may be one that does not reach multi-user.target.
	for _, target := range []string{"multi-user.target", "default.target"} {
		i.folder.link(in(target+".wants/"+appUnit), "../"+appUnit)
	}
	i.folder.file(in(failedUnit), fmt.Appendf(nil, "[Unit]\nDescription=Report the failure of %%i\nDefaultDependencies=no\n\n[Service]\nType=oneshot\nExecStart=%s unit %%i\n",
		path.Join(richrun.Folder, richrun.LaunchFile)), 0o644)
	brought, err := i.brought()
	if err != nil {
		return err
	}
	for _, u := range brought {
		i.folder.file(in(u.name), u.text, 0o644)
	}
	e, err := i.enable(brought)
	if err != nil {
		return err
	}
	if err := i.namedUnits(e); err != nil {
		return err
	}
	for _, name := range maskedUnits() {
		if _, ok := e.brought[name]; !ok && e.alias[name] == "" {
			i.folder.link(in(name), nothing)
		}
	}
	return i.folder.err
}

// brought gives the units that pod and administrator bring in, each name once.
func (i *realInit) brought() ([]unitFile, error) {
	all, err := i.unitsFrom()
	if err != nil {
		return nil, err
	}
	for _, u := range all {
		i.plan.Brought = append(i.plan.Brought, richrun.Brought{Unit: u.name})
	}
	components, err := i.n.components(i.r, func(c Component) bool { return len(c.Units) > 0 })
	if err != nil {
		return nil, err
	}
	for _, c := range components {
		units, err := i.componentUnits(c)
		if err != nil {
			return nil, err
		}
		for _, u := range units {
			if slices.ContainsFunc(all, func(o unitFile) bool { return o.name == u.name }) {
				return nil, i.r.Choice.refuse(errdefs.ErrInvalidArgument, "unit %s of component %s is brought in twice: give one of them another name", u.name, c.Name)
			}
			all = append(all, u)
			i.plan.Brought = append(i.plan.Brought, richrun.Brought{Unit: u.name, Component: c.Name})
		}
	}
	return all, nil
}

// report has the failure of a unit recorded, once.
func (i *realInit) report(unit string) {
	name := path.Join(unitsDir, unit+".d", "50-pouch.conf")
	if _, err := os.Lstat(i.folder.path(name)); err != nil {
		i.folder.file(name, []byte(reporting), 0o644)
	}
}

// maskedUnits make no sense in a container: they look after devices, terminals, kernel and network of a machine, or mount what
// the container has already, and would fail.
func maskedUnits() []string {
	return []string{
		"systemd-udevd.service", "systemd-udevd-control.socket", "systemd-udevd-kernel.socket", "systemd-udevd-varlink.socket", "systemd-udev-trigger.service",
		"systemd-udev-settle.service", "systemd-udev-load-credentials.service", "systemd-hwdb-update.service", "systemd-modules-load.service", "systemd-sysctl.service",
		"kmod-static-nodes.service", "systemd-tmpfiles-setup-dev.service", "systemd-tmpfiles-setup-dev-early.service", "systemd-vconsole-setup.service",
		"systemd-remount-fs.service", "systemd-fsck-root.service", "systemd-machine-id-commit.service", "systemd-firstboot.service", "systemd-random-seed.service", "systemd-boot-random-seed.service",
		"systemd-binfmt.service", "proc-sys-fs-binfmt_misc.automount", "proc-sys-fs-binfmt_misc.mount",
		"sys-kernel-debug.mount", "sys-kernel-tracing.mount", "sys-kernel-config.mount", "sys-fs-fuse-connections.mount", "dev-hugepages.mount", "dev-mqueue.mount", "tmp.mount", "run-lock.mount",
		"getty.target", "getty@.service", "getty-static.service", "autovt@.service", "console-getty.service", "serial-getty@.service", "container-getty@.service", "getty-pre.target",
		"systemd-networkd.service", "systemd-networkd.socket", "systemd-networkd-wait-online.service", "networking.service", "NetworkManager.service", "NetworkManager-wait-online.service", "ifup@.service",
		"systemd-timesyncd.service", "systemd-rfkill.service", "systemd-rfkill.socket", "systemd-backlight@.service", "systemd-oomd.service", "systemd-oomd.socket",
		"systemd-pstore.service", "systemd-journald-audit.socket", "fstrim.timer", "e2scrub_all.timer", "e2scrub_reap.service", "rescue.service", "emergency.service",
	}
}
