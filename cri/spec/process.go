package spec

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/signal"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-pouch/cri-pouch/cri/model"
)

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// process gives the first process of the container, without what security adds.
func (b *Builder) process(in Input, who model.User) (*specs.Process, error) {
	argv, err := arguments(in)
	if err != nil {
		return nil, err
	}
	env, err := b.environment(in)
	if err != nil {
		return nil, err
	}
	cwd, err := workingDir(in)
	if err != nil {
		return nil, err
	}
	p := &specs.Process{
		Terminal: in.Config.TTY, Args: argv, Env: env, Cwd: cwd,
		User:            specs.User{UID: uint32(who.UID), GID: uint32(who.GID)},
		NoNewPrivileges: in.Config.Security.NoNewPrivs,
	}
	for _, g := range who.SupplementalGroups {
		p.User.AdditionalGids = append(p.User.AdditionalGids, uint32(g))
	}
	// Always set: what is not would be the shim's own, which its service manager may have made nearly immune.
	var adj int
	if r := in.Config.Resources; r != nil {
		adj = int(r.OOMScoreAdj)
	}
	p.OOMScoreAdj = &adj
	return p, nil
}

// arguments follow Kubernetes: a command replaces the image's entrypoint and Cmd, args alone replace its Cmd.
func arguments(in Input) ([]string, error) {
	entry, cmd := in.Config.Command, in.Config.Args
	if len(entry) == 0 {
		entry = in.Image.Config.Entrypoint
		if len(cmd) == 0 {
			cmd = in.Image.Config.Cmd
		}
	}
	argv := slices.Concat(entry, cmd)
	if len(argv) == 0 {
		return nil, fmt.Errorf("neither the request nor image %q names a command: %w", in.Config.UserImage, errdefs.ErrInvalidArgument)
	}
	if argv[0] == "" {
		return nil, fmt.Errorf("the command's name is empty: %w", errdefs.ErrInvalidArgument)
	}
	for _, a := range argv {
		if strings.ContainsRune(a, 0) {
			return nil, fmt.Errorf("argument %q has a NUL byte: %w", a, errdefs.ErrInvalidArgument)
		}
	}
	return argv, nil
}

// environment lays the request's variables over the image's, and those over the defaults. A later value of a name takes the
// earlier one's place.
func (b *Builder) environment(in Input) ([]string, error) {
	hostname := in.Sandbox.Hostname
	if hostname == "" {
		var err error
		if hostname, err = b.host.hostname(); err != nil {
			return nil, fmt.Errorf("name of the node: %w", err)
		}
	}
	raw := []string{defaultPath, "HOSTNAME=" + hostname}
	if in.Config.TTY {
		raw = append(raw, "TERM=xterm")
	}
	for _, e := range in.Image.Config.Env {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" || strings.ContainsRune(e, 0) {
			return nil, fmt.Errorf("environment entry %q of image %q is not NAME=value: %w", e, in.Config.UserImage, errdefs.ErrInvalidArgument)
		}
		raw = append(raw, e)
	}
	for _, e := range in.Config.Envs {
		raw = append(raw, e.Key+"="+string(e.Value))
	}
	var env []string
	at := map[string]int{}
	for _, e := range raw {
		name, _, _ := strings.Cut(e, "=")
		// Specification and libcontainer carry JSON, which would put other bytes in place of these.
		if !utf8.ValidString(e) {
			return nil, fmt.Errorf("values of variables that are not UTF-8 are not supported yet: %q, mount it as a file: %w", name, errdefs.ErrNotImplemented)
		}
		if i, ok := at[name]; ok {
			env[i] = e
			continue
		}
		at[name] = len(env)
		env = append(env, e)
	}
	return env, nil
}

// aDescriptor matches folders of open descriptors, through which a leaked one could be a working directory (CVE-2024-21626).
var aDescriptor = regexp.MustCompile(`^/proc/[^/]+(/task/[^/]+)?/(fd|fdinfo|map_files|cwd|root)(/|$)`)

func workingDir(in Input) (string, error) {
	cwd := in.Config.WorkingDir
	if cwd == "" {
		cwd = in.Image.Config.WorkingDir
	}
	cwd = path.Join("/", cwd)
	if strings.ContainsRune(cwd, 0) || aDescriptor.MatchString(cwd) {
		return "", fmt.Errorf("working directory %q is not allowed: %w", cwd, errdefs.ErrInvalidArgument)
	}
	return cwd, nil
}

// stopSignal gives the request's signal, else the image's, else SIGTERM, by its name.
func stopSignal(in Input) (string, error) {
	if s := in.Config.StopSignal; s != "" {
		return s, nil
	}
	asked := in.Image.Config.StopSignal
	if asked == "" {
		return "SIGTERM", nil
	}
	n, err := signal.ParseSignal(asked)
	if err != nil {
		return "", fmt.Errorf("stop signal %q of image %q: %w: %w", asked, in.Config.UserImage, err, errdefs.ErrInvalidArgument)
	}
	if name := "SIG" + strings.TrimPrefix(strings.ToUpper(asked), "SIG"); signal.SignalMap[name[3:]] == n {
		return name, nil
	}
	return signalName(n), nil
}

// signalName names a number; of two names the first of the alphabet.
func signalName(n syscall.Signal) string {
	var names []string
	for k, v := range signal.SignalMap {
		if v == n {
			names = append(names, "SIG"+k)
		}
	}
	if len(names) == 0 {
		return fmt.Sprint(int(n))
	}
	return slices.Min(names)
}

// Exec gives a further process of the container: another command line with everything else as the first process has it.
// A terminal gets TERM unless the container has it set.
func (b *Builder) Exec(container *specs.Spec, argv []string, tty bool) *specs.Process {
	p := *container.Process
	p.Args, p.Terminal, p.ConsoleSize = slices.Clone(argv), tty, nil
	p.Env = slices.Clone(p.Env)
	if tty && !slices.ContainsFunc(p.Env, func(e string) bool { return strings.HasPrefix(e, "TERM=") }) {
		p.Env = append(p.Env, "TERM=xterm")
	}
	return &p
}
