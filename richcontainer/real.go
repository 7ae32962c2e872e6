package richcontainer

import (
	"crypto/sha256"
	"encoding/hex"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-pouch/cri-pouch/internal/richrun"
)

// realInit is what systemd and the inits of sbin-init mode have in common: pid 1 is root's and the image's own, and starts
// the launcher, which runs the application.
type realInit struct {
	n      Node
	r      Request
	image  *image
	folder *folder
	plan   richrun.Plan
	app    specs.Process // as a plain container would have it
	mounts []specs.Mount // the container's further ones
	early  []specs.Mount // those that come before all others
}

// Files of the folder besides those of package richrun.
const (
	machineIDFile   = "machine-id"
	profileFile     = "pouchenv.sh"
	environmentName = "environment"
	inittabFile     = "inittab"
	unitsDir        = "units"
	componentsDir   = "components"
	scriptsDir      = "scripts"
)

func (n Node) realInit(r Request, image *image, initPath string) (*realInit, error) {
	p := r.Spec.Process
	if err := n.mayBeRoot(r, p); err != nil {
		return nil, err
	}
	if err := canBecome(r); err != nil {
		return nil, err
	}
	if err := notItself(r, image, initPath); err != nil {
		return nil, err
	}
	i := &realInit{n: n, r: r, image: image, app: *p}
	i.app.Capabilities = withoutBoot(p.Capabilities)
	i.plan = richrun.Plan{
		Mode: string(r.Choice.Mode), ShutdownTimeout: r.Choice.Options.ShutdownTimeout,
		Delegate: true, OwnerUID: hostID(r.UIDs, 0), OwnerGID: hostID(r.GIDs, 0),
	}
	app, err := n.launched(r, image)
	if err != nil {
		return nil, r.Choice.refuse(errdefs.ErrInvalidArgument, "%w", err)
	}
	text, err := app.Encode()
	if err != nil {
		return nil, r.Choice.refuse(errdefs.ErrInvalidArgument, "%w", err)
	}
	if i.folder, err = newFolder(r); err != nil {
		return nil, err
	}
	i.folder.file(richrun.AppFile, text, 0o400)
	i.folder.file(richrun.RecordFile, nil, 0o600)
	i.folder.file(richrun.LaunchFile, nil, 0o555) // pouch-init is mounted there
	i.folder.fifo(richrun.ControlFIFO, i.folder.uid)
	user := hostID(r.UIDs, p.User.UID)
	i.plan.AppUID = user
	for _, name := range []string{richrun.StdinFIFO, richrun.StdoutFIFO, richrun.StderrFIFO} {
		i.folder.fifo(name, user)
	}
	return i, i.folder.err
}

// notItself refuses an image whose command is the init: the init would start itself as its own application.
func notItself(r Request, image *image, initPath string) error {
	init, _, err := image.look(initPath)
	if err != nil {
		return r.Choice.refuse(errdefs.ErrInvalidArgument, "%w", err)
	}
	args := r.Spec.Process.Args
	if !isInit(command(r.Spec.Process, image), init, args) {
		return nil
	}
	return r.Choice.refuse(errdefs.ErrInvalidArgument, "the container's command is the init %s itself: name the application (for none: sleep infinity) in the pod's command, the init is started anyway", list(args[:min(len(args), 2)]))
}

// isInit says whether a program with these arguments is the init. The busybox that is one has other names, too.
func isInit(program, init found, args []string) bool {
	if program.path == "" || program.path != init.path {
		return false
	}
	name := path.Base(args[0])
	if name == "busybox" && len(args) > 1 {
		name = args[1]
	}
	return path.Base(init.path) != "busybox" || name == "init" || name == "linuxrc"
}

// command finds the program that the container is to run, as a shell would: without a slash in the container's PATH. What
// cannot be found is for the start to tell.
func command(p *specs.Process, image *image) found {
	name := p.Args[0]
	places := []string{name}
	switch {
	case path.IsAbs(name):
	case strings.Contains(name, "/"):
		places = []string{path.Join("/", p.Cwd, name)}
	default:
		search := variable(p.Env, "PATH")
		if search == "" {
			search = strings.TrimPrefix(pathVariable, "PATH=")
		}
		places = nil
		for _, dir := range strings.Split(search, ":") {
			places = append(places, path.Join("/", p.Cwd, name))
			if path.IsAbs(dir) {
				places[len(places)-1] = path.Join(dir, name)
			}
		}
	}
	for _, at := range places {
		if f, there, err := image.look(at); err == nil && there && f.program(p.User.UID) {
			return f
		}
	}
	return found{}
}

// tmpfs mounts an empty file system over a folder of the image, unless the pod mounts something there itself.
func (i *realInit) tmpfs(at, mode string) error {
	mount := specs.Mount{Destination: at, Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=" + mode}}
	if slices.Contains(i.image.mounts, at) {
		return nil
	}
	if i.image.hidden(at) { // in what the pod mounts
		i.mounts = append(i.mounts, mount)
		return nil
	}
	if slices.ContainsFunc(i.early, func(m specs.Mount) bool { return strings.HasPrefix(at, m.Destination+"/") }) {
		i.early = append(i.early, mount) // what the image has there is not seen
		return nil
	}
	f, err := i.image.folder(at)
	if err != nil {
		return i.r.Choice.refuse(errdefs.ErrInvalidArgument, "the init needs a folder at %s, build the image with one: %w", at, err)
	}
	if f.path == "" && i.image.link(at) != "" { // the mount would come to lie where the link leads
		return i.r.Choice.refuse(errdefs.ErrInvalidArgument, "%s of the image is a link that leads to no folder of it, the init needs a folder there: build the image with one", at)
	}
	if f.path != "" && f.path != at {
		return i.r.Choice.refuse(errdefs.ErrInvalidArgument, "%s of the image is a link to %s, the init needs a folder there: build the image with one", at, f.path)
	}
	// No noexec: packages and units run programs there.
	i.early = append(i.early, mount)
	return nil
}

// over mounts a file of the folder over one of the image, read-only. What the image has there must be a plain file or nothing.
func (i *realInit) over(at, file string) error {
	if i.image.hidden(at) {
		return nil
	}
	f, there, err := i.image.look(at)
	if err == nil && there && !f.mode.IsRegular() {
		err = noPlainFile(at+" of the image", f.mode)
	}
	if err != nil {
		return i.r.Choice.refuse(errdefs.ErrInvalidArgument, "%w", err)
	}
	i.mounts = append(i.mounts, bind(i.folder.path(file), at, "ro"))
	return nil
}

func bind(source, at, mode string) specs.Mount {
	return specs.Mount{Destination: at, Type: "bind", Source: source, Options: []string{"bind", "rprivate", mode, "nosuid", "nodev"}}
}

// environment shows the container's variables to login shells and to what uses PAM, where the image has either.
func (i *realInit) environment() error {
	env := i.app.Env
	if f, there, err := i.image.look("/etc/profile.d"); err != nil {
		return i.r.Choice.refuse(errdefs.ErrInvalidArgument, "%w", err)
	} else if there && f.mode.IsDir() {
		i.folder.file(profileFile, profileScript(env), 0o644)
		if err := i.over("/etc/profile.d/"+profileFile, profileFile); err != nil {
			return err
		}
	}
	if f, there, err := i.image.look("/etc/pam.d"); err != nil {
		return i.r.Choice.refuse(errdefs.ErrInvalidArgument, "%w", err)
	} else if !there || !f.mode.IsDir() {
		return nil
	}
	own, err := i.image.read("/etc/environment", maxText)
	if err != nil {
		return i.r.Choice.refuse(errdefs.ErrInvalidArgument, "%w", err)
	}
	i.folder.file(environmentName, environmentFile(own, env), 0o644)
	return i.over("/etc/environment", environmentName)
}

// maxText bounds a text file of an image that is read, in bytes.
const maxText = 1 << 20

// finish edits the specification: pid 1 in place of the application, and the mounts.
func (i *realInit) finish(argv, env []string) (Prepared, error) {
	sp := i.r.Spec
	if i.folder.err != nil {
		return Prepared{}, i.folder.err
	}
	if err := i.plan.Write(i.r.Bundle); err != nil {
		return Prepared{}, err
	}
	app := i.app
	p := *sp.Process
	term := "TERM=dumb" // what the init prints goes to a file
	p.Args, p.Env, p.Cwd = argv, append([]string{"container=cri-pouch", "container_uuid=" + uuid(i.r.PodUID), term, pathVariable}, env...), "/"
	p.User, p.NoNewPrivileges, p.Capabilities = specs.User{}, false, withoutBoot(p.Capabilities)
	if p.Capabilities != nil {
		p.Capabilities.Ambient, p.Capabilities.Inheritable = nil, nil
	}
	sp.Process = &p
	launcher, err := i.n.programMount(i.r.Bundle, path.Join(richrun.Folder, richrun.LaunchFile))
	if err != nil {
		return Prepared{}, err
	}
	mounts := []specs.Mount{
		bind(i.folder.dir, richrun.Folder, "ro"), bind(i.folder.path(richrun.RecordFile), path.Join(richrun.Folder, richrun.RecordFile), "rw"), launcher,
	}
	sp.Mounts = slices.Concat(i.early, sp.Mounts, mounts, i.mounts)
	if !slices.ContainsFunc(sp.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.CgroupNamespace }) {
		sp.Linux.Namespaces = append(sp.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	i.r.Choice.Mode.KeepGroupAlive(sp.Linux.Resources)
	return Prepared{Process: &app, StopSignal: i.r.Choice.Mode.SignalFor(i.r.StopSignal), Init: argv[0]}, nil
}

const pathVariable = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

var hexDigits = regexp.MustCompile(`^[0-9a-f]{32}$`)

// machineID is the pod's identity as 32 hexadecimal digits (machine-id(5)): its UID, or a hash of one that is no UUID.
func machineID(podUID string) string {
	id := strings.ToLower(strings.ReplaceAll(podUID, "-", ""))
	if hexDigits.MatchString(id) && strings.Trim(id, "0") != "" {
		return id
	}
	sum := sha256.Sum256([]byte(podUID))
	sum[6], sum[8] = sum[6]&0x0f|0x40, sum[8]&0x3f|0x80 // of the form of a random UUID
	return hex.EncodeToString(sum[:16])
}

func uuid(podUID string) string {
	id := machineID(podUID)
	return strings.Join([]string{id[:8], id[8:12], id[12:16], id[16:20], id[20:]}, "-")
}
