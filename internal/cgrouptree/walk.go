package cgrouptree

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// visitor is called for each cgroup of a tree.
type visitor struct {
	enter func(dir *os.File) error                 // before what is below it
	leave func(parent *os.File, name string) error // after that; nil: nothing. Not for the root
}

// walk visits root and what is below it. It goes step by step with one open folder: who manages cgroups inside of a container
// can make them deeper than any path is long (PATH_MAX), and more of them than there are descriptors. What goes away meanwhile
// is passed over.
func walk(root string, v visitor) error {
	dir, err := openFolder(unix.AT_FDCWD, root)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	type level struct {
		name  string
		below []string
	}
	var path []level
	push := func(name string) error {
		below, err := folders(dir)
		if err == nil {
			err = v.enter(dir)
		}
		path = append(path, level{name, below})
		return err
	}
	if err := push(""); err != nil {
		return err
	}
	step := func(name string) error {
		next, err := openFolder(int(dir.Fd()), name)
		if err != nil {
			return err
		}
		_ = dir.Close()
		dir = next
		return nil
	}
	for {
		top := &path[len(path)-1]
		if n := len(top.below); n > 0 {
			name := top.below[n-1]
			top.below = top.below[:n-1]
			err := step(name)
			if err == nil {
				err = push(name)
			}
			if err != nil && !errors.Is(err, unix.ENOENT) {
				return err
			}
			continue
		}
		name := top.name
		if path = path[:len(path)-1]; len(path) == 0 {
			return nil
		}
		if err := step(".."); err != nil {
			return err
		}
		if v.leave != nil {
			if err := v.leave(dir, name); err != nil {
				return err
			}
		}
	}
}

func openFolder(at int, name string) (*os.File, error) {
	fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open cgroup %.200s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func folders(dir *os.File) ([]string, error) {
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return nil, fmt.Errorf("list cgroup: %w", err)
	}
	var out []string
	for _, e := range entries {
		if e.IsDir() {
			out = append(out, e.Name())
		}
	}
	return out, nil
}

// readIn reads a file of a cgroup.
func readIn(dir *os.File, name string) ([]byte, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	return io.ReadAll(f)
}
