package leak

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
)

// filesMax bounds the files that are compared, which are a test's few.
const filesMax = 200_000

// files lists what is in FileDirs. What is mounted there belongs to another filesystem and is not entered.
func (s Scope) files(found inventory) error {
	count := 0
	for _, dir := range s.FileDirs {
		device, err := deviceOf(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("list files of %s: %w", dir, err)
		}
		err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // it went in this moment
			}
			if err != nil || path == dir {
				return err
			}
			if count++; count > filesMax {
				return fmt.Errorf("more than %d files", filesMax)
			}
			found.add("file", path)
			if d, err := deviceOf(path); e.IsDir() && (err != nil || d != device) {
				return fs.SkipDir
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("list files of %s: %w", dir, err)
		}
	}
	return nil
}

func deviceOf(path string) (uint64, error) {
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		return 0, &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	return uint64(st.Dev), nil
}

// addresses lists the addresses that host-local has given out: a file each, named after it.
func (s Scope) addresses(found inventory) error {
	for _, dir := range s.CNIDirs {
		paths, err := filepath.Glob(filepath.Join(dir, "*", "*"))
		if err != nil {
			return fmt.Errorf("list addresses of %s: %w", dir, err)
		}
		for _, path := range paths {
			if _, err := netip.ParseAddr(filepath.Base(path)); err != nil {
				continue // its lock and its memory of the last address
			}
			owner, _ := os.ReadFile(path)
			found.add("IP reservation", fmt.Sprintf("%s of %.64q", path, owner))
		}
	}
	return nil
}
