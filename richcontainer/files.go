package richcontainer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/richrun"
)

// folder is the one that daemon, shim and container share (package richrun). The daemon makes everything in it before the
// start; nothing of an image is ever written through.
type folder struct {
	dir      string
	uid, gid int // the container's root, as the host sees it
	err      error
}

// newFolder makes the folder in a bundle, which is made too. The folder may be there, empty: a filesystem of its own.
func newFolder(r Request) (*folder, error) {
	f := &folder{dir: filepath.Join(r.Bundle, richrun.Dir), uid: hostID(r.UIDs, 0), gid: hostID(r.GIDs, 0)}
	if err := os.MkdirAll(r.Bundle, 0o700); err != nil {
		return nil, fmt.Errorf("make bundle: %w", err)
	}
	if err := os.Mkdir(f.dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("make folder of a rich container: %w", err)
	}
	return f, nil
}

// hostID gives the host's number of a container's; of one that is not mapped the kernel's overflow ID.
func hostID(mappings []IDMapping, id uint32) int {
	if len(mappings) == 0 {
		return int(id)
	}
	for _, m := range mappings {
		if id >= m.ContainerID && id-m.ContainerID < m.Length {
			return int(m.HostID + id - m.ContainerID)
		}
	}
	return 65534
}

func (f *folder) path(name string) string { return filepath.Join(f.dir, name) }

// fail keeps the first error, so that a row of files needs one check. Nothing is made after it.
func (f *folder) fail(name string, err error) {
	if err != nil && f.err == nil {
		f.err = fmt.Errorf("make %s of a rich container: %w", name, err)
	}
}

// file makes a file of the container's root. The modes are exact, whatever the umask.
func (f *folder) file(name string, content []byte, mode os.FileMode) {
	if f.err != nil {
		return
	}
	at := f.path(name)
	err := os.MkdirAll(filepath.Dir(at), 0o755)
	if err == nil {
		err = os.WriteFile(at, content, 0o600)
	}
	if err == nil {
		err = os.Chmod(at, mode)
	}
	if err == nil {
		err = os.Chown(at, f.uid, f.gid)
	}
	f.fail(name, err)
}

// fifo makes a FIFO whose owner is a user of the container, and its root the group: an application may open its own
// /dev/stdout again, and a root without CAP_DAC_OVERRIDE must be able to open it first.
func (f *folder) fifo(name string, uid int) {
	if f.err != nil {
		return
	}
	at := f.path(name)
	err := unix.Mkfifo(at, 0o660)
	if err == nil {
		err = os.Chmod(at, 0o660)
	}
	if err == nil {
		err = os.Chown(at, uid, f.gid)
	}
	f.fail(name, err)
}

func (f *folder) link(name, target string) {
	if f.err != nil {
		return
	}
	at := f.path(name)
	err := os.MkdirAll(filepath.Dir(at), 0o755)
	if err == nil {
		err = os.Symlink(target, at)
	}
	f.fail(name, err)
}

func (f *folder) sub(name string) {
	if f.err == nil {
		f.fail(name, os.MkdirAll(f.path(name), 0o755))
	}
}
