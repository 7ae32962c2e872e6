package richcontainer

import (
	"bytes"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/richrun"
)

const inittab = "/etc/inittab"

// initKind is one of the inits that /sbin/init can be.
type initKind struct {
	name string
	// is says whether the program of that name (of the file itself, not of a link) with that content is one.
	is func(name string, program []byte) bool
	// missing is written where the image has no inittab, which the init would otherwise make up for itself.
	missing string
	// lines are ours, for an inittab.
	lines    func(launch string, scripts []string) string
	shutdown int
	// alone says that it never exits by itself without CAP_SYS_BOOT.
	alone bool
}

// initKinds are those with an inittab. Neither exits without CAP_SYS_BOOT.
func initKinds() []initKind {
	return []initKind{
		{
			name: richrun.InitBusybox, shutdown: int(unix.SIGUSR2), alone: true,
			is: func(name string, program []byte) bool {
				return name == "busybox" || bytes.Contains(program, []byte("BusyBox v"))
			},
			missing: "::sysinit:/etc/init.d/rcS\n",
			lines: func(launch string, scripts []string) string {
				var b strings.Builder
				for _, program := range append(scripts, launch) {
					b.WriteString("::once:" + program + "\n")
				}
				return b.String()
			},
		},
		{
			name: richrun.InitSysvinit, shutdown: int(unix.SIGPWR), alone: true,
			is: func(_ string, program []byte) bool {
				return bytes.Contains(program, []byte(inittab)) && bytes.Contains(program, []byte("/run/initctl"))
			},
			missing: "id:2:initdefault:\nsi::sysinit:/etc/init.d/rcS\n" +
				"l0:0:wait:/etc/init.d/rc 0\nl1:1:wait:/etc/init.d/rc 1\nl2:2:wait:/etc/init.d/rc 2\nl3:3:wait:/etc/init.d/rc 3\nl4:4:wait:/etc/init.d/rc 4\nl5:5:wait:/etc/init.d/rc 5\nl6:6:wait:/etc/init.d/rc 6\n",
			lines: func(launch string, scripts []string) string {
				var b strings.Builder
				for n, program := range append(scripts, launch) {
					fmt.Fprintf(&b, "%s%02d:12345:once:%s\n", ownIDs, n, program)
				}
				// Not in 0 and 6: a shutdown that is under way would be begun anew, past the scripts that stop services.
				return b.String() + ownIDs + "pf:12345:powerfail:/sbin/shutdown -h now\n"
			},
		},
	}
}

// ownIDs begins those of our lines in sysvinit's inittab (inittab(5): at most four characters, each once).
const ownIDs = "p+"

// otherInits are refused by their names.
var otherInits = []struct{ name, sign string }{
	{"openrc-init", "openrc"}, {"runit", "/etc/runit"}, {"s6-svscan", "s6-svscan"}, {"dinit", "dinit"}, {"upstart", "upstart"}, {"tini", "tini"}, {"dumb-init", "dumb-init"},
}

func (n Node) sbinInit(r Request, image *image) (Prepared, error) {
	f, there, err := image.look(sbinInit)
	if err != nil {
		return Prepared{}, r.Choice.refuse(errdefs.ErrInvalidArgument, "look for %s: %w", sbinInit, err)
	}
	switch {
	case !there:
		return Prepared{}, r.Choice.refuse(errdefs.ErrInvalidArgument, "the image has no %s: install an init in it (on Debian the package sysvinit-core or systemd-sysv), or choose another mode", sbinInit)
	case !f.program(0):
		return Prepared{}, r.Choice.refuse(errdefs.ErrInvalidArgument, "%s of the image (%s, %s) is no program: it must be an executable file that is not empty", sbinInit, f.path, kindOf(f.mode))
	case path.Base(f.path) == "systemd":
		return n.systemd(r, image)
	}
	program, err := image.read(sbinInit, maxInit)
	if err != nil {
		return Prepared{}, r.Choice.refuse(errdefs.ErrInvalidArgument, "%w", err)
	}
	for _, kind := range initKinds() {
		if kind.is(path.Base(f.path), program) {
			return n.withInittab(r, image, kind)
		}
	}
	known := "sysvinit, busybox and systemd"
	for _, other := range otherInits {
		if strings.Contains(path.Base(f.path), other.name) || bytes.Contains(program, []byte(other.sign)) {
			return Prepared{}, r.Choice.refuse(errdefs.ErrInvalidArgument, "%s of the image (%s) is %s, which is not supported: known are %s; use %s mode, or another init in the image", sbinInit, f.path, other.name, known, DumbInit)
		}
	}
	return Prepared{}, r.Choice.refuse(errdefs.ErrInvalidArgument, "%s of the image (%s) is an init that is not known: known are %s; use %s mode, or another init in the image", sbinInit, f.path, known, DumbInit)
}

// withInittab runs an init whose services stand in /etc/inittab: the launcher is one line more.
func (n Node) withInittab(r Request, image *image, kind initKind) (Prepared, error) {
	if len(r.Choice.Options.After) > 0 && !slices.Equal(r.Choice.Options.After, []string{defaultAfter}) || len(r.Choice.Options.WatchUnits) > 0 || r.Choice.Options.UnitsFrom != "" {
		return Prepared{}, r.Choice.refuse(errdefs.ErrInvalidArgument, "the options after, watch-units and units-from are for systemd, the image's init is %s", kind.name)
	}
	if image.hidden(inittab) {
		return Prepared{}, r.Choice.refuse(errdefs.ErrInvalidArgument, "the pod mounts something at or above %s, where the application has to be written down: remove that mount", inittab)
	}
	own, err := image.read(inittab, maxText)
	if err != nil {
		return Prepared{}, r.Choice.refuse(errdefs.ErrInvalidArgument, "%w", err)
	}
	i, err := n.realInit(r, image, sbinInit)
	if err != nil {
		return Prepared{}, err
	}
	i.plan.Shutdown, i.plan.KillWhenAlone, i.plan.Init = kind.shutdown, kind.alone, kind.name
	for _, m := range inittabTmpfs() {
		if err := i.tmpfs(m.path, m.mode); err != nil {
			return Prepared{}, err
		}
	}
	components, err := n.components(r, func(c Component) bool { return len(c.Scripts) > 0 })
	if err != nil {
		return Prepared{}, err
	}
	var scripts []string
	for _, c := range components {
		more, err := i.componentScripts(c)
		if err != nil {
			return Prepared{}, err
		}
		scripts = append(scripts, more...)
	}
	launch, err := i.launchApart()
	if err != nil {
		return Prepared{}, err
	}
	i.folder.file(inittabFile, inittabText(own, kind, launch, scripts), 0o644)
	if err := i.over(inittab, inittabFile); err != nil {
		return Prepared{}, err
	}
	if err := i.environment(); err != nil {
		return Prepared{}, err
	}
	return i.finish([]string{sbinInit}, nil)
}

// aGetty matches a line that keeps a login on a terminal that containers do not have.
var aGetty = regexp.MustCompile(`^[^#:]*:[^:]*:(respawn|askfirst|ondemand):.*getty.*\btty[0-9A-Z]`)

// atTheEnd matches a line that keeps something running after the shutdown, as Debian's does a login in case the reboot fails:
// the container would not end for it.
var atTheEnd = regexp.MustCompile(`^[^#:]*:[06]+:respawn:`)

// inittabText is the image's own inittab with our lines behind. The image's lines stay as they are, but for logins on
// terminals that are not there, which would fail for ever, what would outlive the shutdown, and IDs that are ours.
func inittabText(own []byte, kind initKind, launch string, scripts []string) []byte {
	if own == nil {
		own = []byte(kind.missing)
	}
	var b bytes.Buffer
	for line := range strings.Lines(string(own)) {
		line = strings.TrimRight(line, "\n")
		switch {
		case aGetty.MatchString(line):
			b.WriteString("# no such terminal in a container: ")
		case atTheEnd.MatchString(line):
			b.WriteString("# the container ends instead: ")
		case strings.HasPrefix(line, ownIDs):
			b.WriteString("# replaced by cri-pouch: ")
		}
		b.WriteString(line + "\n")
	}
	b.WriteString("# by cri-pouch\n" + kind.lines(launch, scripts))
	return b.Bytes()
}
