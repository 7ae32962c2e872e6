package pouchinit

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// state gives a state folder and a binary, which prints word.
func state(t *testing.T, word string) (dir, binary string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can mount")
	}
	dir, binary = t.TempDir(), filepath.Join(t.TempDir(), "program")
	script(t, binary, word)
	return dir, binary
}

func script(t *testing.T, binary, word string) {
	t.Helper()
	if err := os.WriteFile(binary, []byte("#!/bin/sh\necho "+word+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}

func seal(t *testing.T, p Program, bundle string) string {
	t.Helper()
	if err := os.MkdirAll(bundle, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Unseal(bundle); err != nil {
			t.Error(err)
		}
	})
	path, err := p.Seal(bundle)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t *testing.T, dir, binary string) Program {
	t.Helper()
	p, err := Open(dir, binary)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func says(t *testing.T, path, word string) {
	t.Helper()
	if out, err := exec.Command(path).CombinedOutput(); err != nil || string(out) != word+"\n" {
		t.Errorf("%s says %q, %v, not %q", path, out, err, word)
	}
}

// A container keeps the program that it was made with, until its bundle is removed.
func TestAContainerKeepsItsProgram(t *testing.T) {
	dir, binary := state(t, "one")
	first := seal(t, open(t, dir, binary), filepath.Join(dir, "a"))
	if again := seal(t, open(t, dir, binary), filepath.Join(dir, "a")); again != first {
		t.Errorf("sealed again at %s", again)
	}
	script(t, binary, "two")
	p := open(t, dir, binary)
	second := seal(t, p, filepath.Join(dir, "b"))
	says(t, first, "one")
	says(t, second, "two")
	if err := os.Remove(binary); err != nil {
		t.Fatal(err)
	}
	says(t, seal(t, p, filepath.Join(dir, "a")), "one")
	for _, bundle := range []string{"a", "b", "none"} {
		if err := Unseal(filepath.Join(dir, bundle)); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(filepath.Join(dir, bundle)); err != nil {
			t.Error(err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("%v, %v", left, err)
	}
}

// A daemon that was killed on the way leaves what the next one goes on with.
func TestAHalfMadeSealIsFinished(t *testing.T) {
	dir, binary := state(t, "one")
	p, bundle := open(t, dir, binary), filepath.Join(dir, "a")
	if err := os.MkdirAll(filepath.Join(bundle, sealedDir), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := p.layer(filepath.Join(bundle, layerDir)); err != nil {
		t.Fatal(err)
	}
	says(t, seal(t, p, bundle), "one")
}

// Two containers have two inodes: what root in one can do to its own, as to lease it, concerns no
// other.
func TestContainersShareNoInode(t *testing.T) {
	dir, binary := state(t, "one")
	p := open(t, dir, binary)
	var files [3]os.FileInfo
	for i, path := range []string{p.path, seal(t, p, filepath.Join(dir, "a")), seal(t, p, filepath.Join(dir, "b"))} {
		var err error
		if files[i], err = os.Stat(path); err != nil {
			t.Fatal(err)
		}
	}
	if os.SameFile(files[0], files[1]) || os.SameFile(files[1], files[2]) || os.SameFile(files[0], files[2]) {
		t.Error("they do")
	}
}

func TestTheCopyHasTheOriginalsLabel(t *testing.T) {
	dir, binary := state(t, "one")
	const label = "system_u:object_r:bin_t:s0\x00"
	if err := unix.Setxattr(binary, selinuxLabel, []byte(label), 0); err != nil {
		t.Skipf("no such attribute here: %v", err)
	}
	got := make([]byte, 100)
	n, err := unix.Getxattr(open(t, dir, binary).path, selinuxLabel, got)
	if err != nil || string(got[:n]) != label {
		t.Errorf("%q, %v", got[:max(n, 0)], err)
	}
}

func TestNoProgramIsAnError(t *testing.T) {
	if _, err := Open(t.TempDir(), filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

func BenchmarkSeal(b *testing.B) {
	if os.Getuid() != 0 {
		b.Skip("only root can mount")
	}
	dir := b.TempDir()
	p, err := Open(dir, "/bin/true")
	if err != nil {
		b.Fatal(err)
	}
	bundle := filepath.Join(dir, "a")
	for b.Loop() {
		err := os.Mkdir(bundle, 0o700)
		if err == nil {
			_, err = p.Seal(bundle)
		}
		if err = errors.Join(err, Unseal(bundle), os.RemoveAll(bundle)); err != nil {
			b.Fatal(err)
		}
	}
}
