package fusefs_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cri-pouch/cri-pouch/integration/fusefs"
)

func mount(t *testing.T, o fusefs.Options) (*fusefs.FS, string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: a file system is mounted")
	}
	dir := t.TempDir()
	f, err := fusefs.Mount(dir, o)
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip("needs /dev/fuse")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f, dir
}

func TestServes(t *testing.T) {
	for _, o := range []fusefs.Options{{}, {DefaultPermissions: true}, {DefaultPermissions: true, IDMap: true}} {
		_, dir := mount(t, o)
		b, err := os.ReadFile(filepath.Join(dir, fusefs.Folder, fusefs.File))
		if err != nil || string(b) != fusefs.Content {
			t.Errorf("%+v: %q, %v", o, b, err)
		}
		if _, err := os.Stat(filepath.Join(dir, "other")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

func TestHangsAndResumes(t *testing.T) {
	f, dir := mount(t, fusefs.Options{})
	f.HangOn(fusefs.Lookup)
	read := make(chan error, 1)
	go func() {
		_, err := os.ReadFile(filepath.Join(dir, fusefs.File))
		read <- err
	}()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := f.AwaitHang(ctx, fusefs.Lookup); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); err != nil {
		t.Errorf("what is not to hang: %v", err)
	}
	f.Resume()
	if err := <-read; err != nil {
		t.Error(err)
	}
}

func TestAbortLetsGo(t *testing.T) {
	f, dir := mount(t, fusefs.Options{DefaultPermissions: true})
	f.HangFrom(0)
	read := make(chan error, 1)
	go func() {
		_, err := os.ReadFile(filepath.Join(dir, fusefs.File))
		read <- err
	}()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := f.AwaitHang(ctx, fusefs.Getattr); err != nil {
		t.Fatal(err)
	}
	if err := f.Abort(); err != nil {
		t.Fatal(err)
	}
	if err := <-read; err == nil {
		t.Error("read from a file system that was aborted")
	}
}
