package richcontainer

import (
	"fmt"
	"path"
	"slices"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-pouch/cri-pouch/internal/richrun"
)

// dumbInits are where images have theirs.
var dumbInits = []string{"/usr/bin/dumb-init", "/usr/local/bin/dumb-init", "/bin/dumb-init", "/usr/sbin/dumb-init", "/sbin/dumb-init"}

// dumbInit puts a small init before the command line: the image's dumb-init, or pouch-init, which is static and so runs in any
// image. User, environment and everything else stay as asked; for whoever starts it the container is a plain one.
func (n Node) dumbInit(r Request, image *image) (Prepared, error) {
	app := *r.Spec.Process
	for _, p := range dumbInits {
		f, there, err := image.look(p)
		if err != nil {
			return Prepared{}, r.Choice.refuse(errdefs.ErrInvalidArgument, "look for the image's dumb-init: %w", err)
		}
		if !there || !f.program(r.Spec.Process.User.UID) {
			continue
		}
		if !slices.Contains([]string{p, f.path, path.Base(p)}, r.Spec.Process.Args[0]) { // the image's entrypoint may have it already
			r.Spec.Process.Args = append([]string{p, "--"}, r.Spec.Process.Args...)
		}
		return Prepared{Process: &app, StopSignal: r.StopSignal, Init: p}, nil
	}
	for _, p := range []string{path.Dir(richrun.Folder), richrun.Folder} {
		if _, err := image.folder(p); err != nil {
			return Prepared{}, r.Choice.refuse(errdefs.ErrInvalidArgument, "the init is mounted below %s: %w", richrun.Folder, err)
		}
	}
	at := path.Join(richrun.Folder, richrun.InitFile)
	mount, err := n.programMount(r.Bundle, at)
	if err != nil {
		return Prepared{}, err
	}
	r.Spec.Mounts = append(r.Spec.Mounts, mount)
	r.Spec.Process.Args = append([]string{at}, r.Spec.Process.Args...)
	return Prepared{Process: &app, StopSignal: r.StopSignal, Init: at}, nil
}

// programMount shows pouch-init in the container. Which of its roles it plays follows from its name there.
func (n Node) programMount(bundle, at string) (specs.Mount, error) {
	source, err := n.PouchInit.Seal(bundle)
	if err != nil {
		return specs.Mount{}, fmt.Errorf("what is mounted at %s: %w", at, err)
	}
	return bind(source, at, "ro"), nil
}
