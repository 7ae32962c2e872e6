package atomicfile

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAFileIsReplacedByAnother(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path+Ending, []byte("of one who died"), 0o400); err != nil {
		t.Fatal(err)
	}
	if err := Write(path, []byte("old"), Durable()); err != nil {
		t.Fatal(err)
	}
	reader, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	failure := errors.New("deliberate")
	if err := Write(path, []byte("lost"), Before(func(string) error { return failure })); !errors.Is(err, failure) {
		t.Errorf("got %v", err)
	}
	if err := Write(path, []byte("new"), Mode(0o666)); err != nil { // no umask has this
		t.Fatal(err)
	}
	b := make([]byte, 16)
	if n, _ := reader.Read(b); string(b[:n]) != "old" {
		t.Errorf("who has opened the old file reads %q", b[:n])
	}
	if text, err := os.ReadFile(path); string(text) != "new" {
		t.Errorf("the file holds %q, %v", text, err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode() != 0o666 {
		t.Errorf("the file is %v, %v", st.Mode(), err)
	}
	if left, _ := filepath.Glob(path + "*"); len(left) != 1 {
		t.Errorf("left are %v", left)
	}
	if err := Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := Remove(path); err != nil {
		t.Errorf("removed again: %v", err)
	}
}

// Where there is no room the old file stays, and what was begun takes none.
func TestAFullDiskLeavesTheOldFile(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts a tmpfs")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(dir, "file")
	if err := Write(path, []byte("old")); err != nil {
		t.Fatal(err)
	}
	if err := Write(path, bytes.Repeat([]byte("x"), 128<<10)); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("got %v", err)
	}
	if text, err := os.ReadFile(path); string(text) != "old" {
		t.Errorf("the file holds %q, %v", text, err)
	}
	if left, _ := filepath.Glob(path + "*"); len(left) != 1 {
		t.Errorf("left are %v", left)
	}
}
