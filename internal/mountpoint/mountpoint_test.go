package mountpoint

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func mounted(t *testing.T, dir string) bool {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	return st.Type == unix.TMPFS_MAGIC && st.Files == 16
}

func TestATmpfsIsBoundedAndMadeOnce(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can mount")
	}
	dir := filepath.Join(t.TempDir(), "small")
	t.Cleanup(func() { _ = Clear(dir) })
	for range 2 {
		if err := Tmpfs(dir, 1<<20, 16, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o711 || !mounted(t, dir) {
		t.Fatalf("%v, %v", info, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "full"), make([]byte, 2<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("2 MiB in 1: %v", err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil { // one more, as somebody killed may have left it
		t.Fatal(err)
	}
	for range 2 {
		if err := Clear(dir); err != nil {
			t.Fatal(err)
		}
	}
	if mounted(t, dir) {
		t.Error("it is still mounted")
	}
	if err := Tmpfs(dir, 1<<20, 16, 0o711); err != nil || !mounted(t, dir) { // an empty folder: killed in between
		t.Errorf("an empty folder: %v", err)
	}
	if err := Clear(filepath.Join(dir, "none")); err != nil {
		t.Errorf("nothing: %v", err)
	}
}

func TestAFolderInUseStaysWhatItIs(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "hosts"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Tmpfs(dir, 1<<20, 16, 0o711); err != nil {
		t.Fatal(err)
	}
	if mounted(t, dir) {
		t.Error("what containers have mounted is hidden")
	}
}
