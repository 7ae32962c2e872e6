// Package atomicfile replaces files so that whoever reads one meanwhile, or after a failure, sees the old content or the new, whole.
package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Ending is what the name of a file that is being written has at its end. Who died while it wrote has left such a one.
const Ending = ".new"

// An Option changes how a file is written.
type Option func(*writing)

type writing struct {
	mode     fs.FileMode
	owned    bool
	uid, gid int
	durable  bool
	before   func(path string) error
}

// Mode sets the permissions, whatever the umask; 0600 without it.
func Mode(mode fs.FileMode) Option { return func(w *writing) { w.mode = mode } }

// Owner sets who owns the file.
func Owner(uid, gid int) Option { return func(w *writing) { w.owned, w.uid, w.gid = true, uid, gid } }

// Durable makes the file outlive a power cut: it is on disk, under its name, when Write returns. On tmpfs nothing does.
func Durable() Option { return func(w *writing) { w.durable = true } }

// Before has the file looked after, at the path that it has until it gets its name.
func Before(do func(path string) error) Option { return func(w *writing) { w.before = do } }

// Write replaces the file at path, or leaves the old one and nothing else: a full disk must not be fuller afterwards. A file has one
// writer at a time.
func Write(path string, content []byte, options ...Option) error {
	w := writing{mode: 0o600}
	for _, o := range options {
		o(&w)
	}
	temporary := path + Ending
	err := w.write(temporary, content)
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		_ = os.Remove(temporary)
		return fmt.Errorf("write %s: %w", path, err)
	}
	if w.durable {
		if err := syncDir(filepath.Dir(path)); err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
	}
	return nil
}

func (w *writing) write(path string, content []byte) error {
	if err := ignoreAbsent(os.Remove(path)); err != nil { // of one who died
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(content); err != nil {
		return err
	}
	if w.owned {
		if err := f.Chown(w.uid, w.gid); err != nil {
			return err
		}
	}
	if err := f.Chmod(w.mode); err != nil {
		return err
	}
	if w.before != nil {
		if err := w.before(path); err != nil {
			return err
		}
	}
	if w.durable {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	return f.Close()
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Remove removes the file, and what a writer that died has left beside it; what is already gone is no error.
func Remove(path string) error {
	return errors.Join(ignoreAbsent(os.Remove(path)), ignoreAbsent(os.Remove(path+Ending)))
}

func ignoreAbsent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
