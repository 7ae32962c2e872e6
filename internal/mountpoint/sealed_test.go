package mountpoint

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// sealedFolder gives a folder with a program in it, and where that is sealed.
func sealedFolder(t *testing.T, parent string) (source, dir string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can mount")
	}
	source, dir = filepath.Join(parent, "source"), filepath.Join(parent, "sealed")
	err := os.MkdirAll(source, 0o755)
	if err == nil {
		err = os.WriteFile(filepath.Join(source, "program"), []byte("#!/bin/sh\necho whole\n"), 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Clear(dir); err != nil {
			t.Error(err)
		}
	})
	for range 2 {
		if err := Sealed(source, dir); err != nil {
			t.Fatal(err)
		}
	}
	return source, dir
}

func TestASealedFolderCannotBeMadeWritable(t *testing.T) {
	source, dir := sealedFolder(t, t.TempDir())
	program := filepath.Join(dir, "program")
	// As a container has it: a bind mount of the file.
	bound := filepath.Join(t.TempDir(), "bound")
	if err := os.WriteFile(bound, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(program, bound, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Clear(bound); err != nil {
			t.Error(err)
		}
	})
	for _, at := range []string{dir, bound} {
		_ = unix.Mount("", at, "", unix.MS_REMOUNT|unix.MS_BIND, "") // which only takes the mount's own bar away
		if err := unix.Mount("", at, "", unix.MS_REMOUNT, ""); !errors.Is(err, unix.EROFS) {
			t.Errorf("%s is remounted: %v", at, err)
		}
	}
	for _, at := range []string{program, bound} {
		for what, try := range map[string]func() error{
			"written":   func() error { return os.WriteFile(at, []byte("x"), 0o755) },
			"truncated": func() error { return unix.Truncate(at, 0) },
			"chmodded":  func() error { return os.Chmod(at, 0) },
			"labelled":  func() error { return unix.Setxattr(at, "trusted.x", []byte("x"), 0) },
		} {
			if err := try(); !errors.Is(err, unix.EROFS) {
				t.Errorf("%s is %s: %v", at, what, err)
			}
		}
		if out, err := exec.Command("sh", at).Output(); err != nil || string(out) != "whole\n" {
			t.Errorf("%s says %q, %v", at, out, err)
		}
	}
	if err := Clear(dir); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(source); err != nil || len(left) != 1 {
		t.Errorf("%v, %v", left, err)
	}
}

// The state folder may be where nothing can be run from, and be called as it likes.
func TestASealedFolderIsRunFrom(t *testing.T) {
	parent := filepath.Join(t.TempDir(), `a:b,c\d e`)
	if err := os.Mkdir(parent, 0o755); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 {
		if err := unix.Mount("tmpfs", parent, "tmpfs", unix.MS_NOEXEC, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := Clear(parent); err != nil {
				t.Error(err)
			}
		})
	}
	_, dir := sealedFolder(t, parent)
	if out, err := exec.Command(filepath.Join(dir, "program")).CombinedOutput(); err != nil || string(out) != "whole\n" {
		t.Errorf("%q, %v", out, err)
	}
}

func TestATmpfsIsMadeWritableAgain(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can mount")
	}
	dir := filepath.Join(t.TempDir(), "small")
	if err := Writable(dir); err != nil {
		t.Errorf("no such folder: %v", err)
	}
	t.Cleanup(func() { _ = Clear(dir) })
	if err := Tmpfs(dir, 1<<20, 16, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Writable(dir); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o600); err != nil || !mounted(t, dir) {
			t.Errorf("its size %t, %v", mounted(t, dir), err)
		}
	}
}
