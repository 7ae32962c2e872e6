package snapshot

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Kernel and file system of the machine that tests run on have all of it.
func TestUserNamespacesAreFound(t *testing.T) {
	if err := tryIn(t, t.TempDir()); err != nil {
		t.Error(err)
	}
}

// Layers on an overlay cannot be idmapped, as those on many file systems cannot, and none with kernels that lack it.
func TestLayersThatCannotBeIDMappedAllowNoUserNamespaces(t *testing.T) {
	needRoot(t)
	base := t.TempDir()
	options := ""
	for _, name := range []string{"lowerdir", "upperdir", "workdir"} {
		dir := filepath.Join(base, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		options += "," + name + "=" + dir
	}
	at := t.TempDir()
	if err := unix.Mount("overlay", at, "overlay", 0, options[1:]); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(at, 0); err != nil {
			t.Error(err)
		}
	}()
	if err := tryIn(t, at); err == nil || !strings.Contains(err.Error(), "map the layers' owners") {
		t.Errorf("the error is %v", err)
	}
}

// tryIn looks whether user namespaces are possible with layers below dir, where a daemon died that did so, too.
func tryIn(t *testing.T, dir string) error {
	t.Helper()
	needRoot(t)
	tmp, dir := t.TempDir(), filepath.Join(dir, "support")
	if err := os.MkdirAll(filepath.Join(dir, "1"), 0o700); err != nil {
		t.Fatal(err)
	}
	err := tryUserNamespace(dir, tmp)
	if _, err := os.Lstat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", dir, err)
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("mounts are left: %v, %v", left, err)
	}
	return err
}
