package richcontainer

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/capability"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-pouch/cri-pouch/internal/richrun"
)

// maxAccounts bounds /etc/passwd of an image, in bytes.
const maxAccounts = 4 << 20

// oomGroupFile is the switch of cgroup v2 that the kubelet sets.
const oomGroupFile = "memory.oom.group"

// launched gives what the launcher is to run: a process as the specification of a plain container has it.
func (n Node) launched(r Request, image *image) (richrun.App, error) {
	p, o := r.Spec.Process, r.Choice.Options
	app := richrun.App{
		Args: p.Args, Env: p.Env, UID: p.User.UID, GID: p.User.GID, Groups: p.User.AdditionalGids, Dir: p.Cwd, Umask: p.User.Umask,
		NoNewPrivs: p.NoNewPrivileges, Terminal: p.Terminal, Stdin: r.Stdin && !p.Terminal,
		Restart: o.Restart, RestartLimit: o.RestartLimit, RestartInterval: o.RestartInterval,
	}
	if res := r.Spec.Linux.Resources; res != nil && res.Unified[oomGroupFile] == "1" {
		app.OOMGroup = true
	}
	if !slices.ContainsFunc(app.Env, func(e string) bool { return strings.HasPrefix(e, "HOME=") }) {
		home, err := homeOf(image, p.User.UID)
		if err != nil {
			return app, err
		}
		app.Env = append(slices.Clone(app.Env), "HOME="+home)
	}
	for _, l := range n.limits(p) {
		number, ok := rlimits[l.Type]
		if !ok {
			return app, fmt.Errorf("limit %s is unknown: %w", l.Type, errdefs.ErrInvalidArgument)
		}
		app.Rlimits = append(app.Rlimits, richrun.Rlimit{Resource: number, Soft: l.Soft, Hard: l.Hard})
	}
	if p.Capabilities != nil && p.User.UID != 0 {
		for _, name := range p.Capabilities.Ambient {
			n, err := capabilityNumber(name)
			if err != nil {
				return app, err
			}
			app.Ambient = append(app.Ambient, n)
		}
	}
	return app, nil
}

// limits are those that a plain container would have: systemd gives its services others for open files.
func (n Node) limits(p *specs.Process) []specs.POSIXRlimit {
	if n.OpenFiles == nil || slices.ContainsFunc(p.Rlimits, func(l specs.POSIXRlimit) bool { return l.Type == n.OpenFiles.Type }) {
		return p.Rlimits
	}
	return append(slices.Clone(p.Rlimits), *n.OpenFiles)
}

// homeOf gives a user's home as the image's /etc/passwd says it, as a plain container's first process gets it.
func homeOf(image *image, uid uint32) (string, error) {
	b, err := image.read("/etc/passwd", maxAccounts)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) >= 6 && f[2] == strconv.FormatUint(uint64(uid), 10) && strings.HasPrefix(f[5], "/") && !strings.ContainsRune(f[5], 0) {
			return f[5], nil
		}
	}
	return "/", nil
}

// rlimits are the numbers of getrlimit(2), which are the same on all architectures that Go knows but for three of MIPS.
var rlimits = map[string]int{
	"RLIMIT_CPU": 0, "RLIMIT_FSIZE": 1, "RLIMIT_DATA": 2, "RLIMIT_STACK": 3, "RLIMIT_CORE": 4, "RLIMIT_RSS": 5, "RLIMIT_NPROC": 6, "RLIMIT_NOFILE": 7,
	"RLIMIT_MEMLOCK": 8, "RLIMIT_AS": 9, "RLIMIT_LOCKS": 10, "RLIMIT_SIGPENDING": 11, "RLIMIT_MSGQUEUE": 12, "RLIMIT_NICE": 13, "RLIMIT_RTPRIO": 14, "RLIMIT_RTTIME": 15,
}

func capabilityNumber(name string) (int, error) {
	for _, c := range capability.ListKnown() {
		if strings.EqualFold("CAP_"+c.String(), name) {
			return int(c), nil
		}
	}
	return 0, fmt.Errorf("capability %s is unknown: %w", name, errdefs.ErrInvalidArgument)
}

// canBecome insists that the init's root can start the application as its user.
func canBecome(r Request) error {
	p := r.Spec.Process
	if p.User.UID == 0 && p.User.GID == 0 || p.Capabilities == nil {
		return nil
	}
	for _, c := range []string{"CAP_SETUID", "CAP_SETGID"} {
		if !slices.Contains(p.Capabilities.Bounding, c) {
			return r.Choice.refuse(errdefs.ErrInvalidArgument, "the init cannot start the application as user %d without the capability %s: add it to the container's capabilities, or use %s mode", p.User.UID, c, DumbInit)
		}
	}
	return nil
}

// KeepGroupAlive takes the switch out of a container's limits that makes the OOM killer take all of it: with a real init it is
// the application's cgroup that has it, and the end of one service is not the end of all.
func (m Mode) KeepGroupAlive(r *specs.LinuxResources) {
	if m != Systemd && m != SbinInit || r == nil || r.Unified[oomGroupFile] == "" {
		return
	}
	r.Unified = maps.Clone(r.Unified)
	delete(r.Unified, oomGroupFile)
}

// withoutBoot takes away the right to reboot: without it a reboot inside is the end of the container.
func withoutBoot(c *specs.LinuxCapabilities) *specs.LinuxCapabilities {
	if c == nil {
		return nil
	}
	drop := func(in []string) []string {
		return slices.DeleteFunc(slices.Clone(in), func(s string) bool { return s == "CAP_SYS_BOOT" })
	}
	return &specs.LinuxCapabilities{
		Bounding: drop(c.Bounding), Effective: drop(c.Effective), Permitted: drop(c.Permitted), Inheritable: drop(c.Inheritable), Ambient: drop(c.Ambient),
	}
}
