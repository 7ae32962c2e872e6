// Package pouchinit gives each container a pouch-init that nothing inside of it can overwrite. The
// node's own file, which daemon and shim run as root, is in no container (CVE-2019-5736 is about a
// runtime's program that was).
package pouchinit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/atomicfile"
	"github.com/cri-pouch/cri-pouch/internal/mountpoint"
)

// Name is what the program is called, in the state folder and in a container's folder.
const Name = "pouch-init"

// The folders in a bundle: the lower layer of the overlay, and where that is mounted.
const (
	layerDir  = "init.lower"
	sealedDir = "init"
)

// programMax bounds the program, in bytes; it has some 100 KiB.
const programMax = 16 << 20

// Program is a copy of the node's pouch-init for containers.
type Program struct{ path string }

// Open copies the program at binary into the state folder, which is on a tmpfs, unless the same is
// there already. A container that was made from an earlier copy keeps that.
func Open(stateDir, binary string) (Program, error) {
	p := Program{filepath.Join(stateDir, Name)}
	text, err := read(binary)
	if err != nil {
		return Program{}, fmt.Errorf("copy pouch-init for containers: %w", err)
	}
	if old, err := read(p.path); err == nil && bytes.Equal(old, text) {
		return p, nil
	}
	if err := p.write(text, binary); err != nil {
		return Program{}, fmt.Errorf("copy pouch-init for containers: %w", err)
	}
	return p, nil
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, programMax+1))
	if err == nil && len(text) > programMax {
		err = fmt.Errorf("%s has more than %d bytes", path, programMax)
	}
	return text, err
}

// write replaces the copy. It is a new file: the former one is in containers.
func (p Program) write(text []byte, binary string) error {
	return atomicfile.Write(p.path, text, atomicfile.Mode(0o755), atomicfile.Before(func(path string) error { return copyLabel(binary, path) }))
}

// selinuxLabel is the attribute with a file's SELinux context (selinux(8)).
const selinuxLabel = "security.selinux"

// copyLabel gives the copy the SELinux context of the original, which containers may run; that of
// the state folder they may not.
func copyLabel(from, to string) error {
	label := make([]byte, 4096)
	n, err := unix.Getxattr(from, selinuxLabel, label)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err == nil {
		err = unix.Setxattr(to, selinuxLabel, label[:n], 0)
	}
	if err != nil {
		return fmt.Errorf("give %s the SELinux context of %s: %w", to, from, err)
	}
	return nil
}

// Seal gives the path, on the node, of pouch-init as the container with this bundle may have it, by
// a bind mount for instance, for as long as the bundle is there. The folder that it is in can also
// be the root filesystem of a process: it has places for /proc and /dev, and nothing else. A second
// Seal gives the same.
func (p Program) Seal(bundle string) (path string, err error) {
	sealed := filepath.Join(bundle, sealedDir)
	path = filepath.Join(sealed, Name)
	if mounted, err := mountinfo.Mounted(sealed); err == nil && mounted {
		return path, nil
	}
	layer := filepath.Join(bundle, layerDir)
	if err := p.layer(layer); err != nil {
		return "", fmt.Errorf("make the folder of pouch-init: %w", err)
	}
	if err := mountpoint.Sealed(layer, sealed); err != nil {
		return "", fmt.Errorf("seal pouch-init: %w", err)
	}
	return path, nil
}

// layer makes the lower layer. The program is a further link of the copy: it stays for as long as
// the bundle has it, and the memory that it takes is the same in all containers.
func (p Program) layer(dir string) error {
	for _, d := range []string{dir, filepath.Join(dir, "proc"), filepath.Join(dir, "dev")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	err := os.Link(p.path, filepath.Join(dir, Name))
	if errors.Is(err, fs.ErrExist) { // of a daemon that was killed here
		return nil
	}
	return err
}

// Unseal takes the mount in a bundle away; that there is none, or no such bundle, is no error.
func Unseal(bundle string) error { return mountpoint.Clear(filepath.Join(bundle, sealedDir)) }
