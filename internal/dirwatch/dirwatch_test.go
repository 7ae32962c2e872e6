package dirwatch

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
)

func TestFoldersAreFollowedThatComeLater(t *testing.T) {
	root := t.TempDir()
	dir, other := filepath.Join(root, "etc", "conf.d"), filepath.Join(root, "usr")
	loads := make(chan struct{}, 100)
	w, err := Open("tests", []string{dir, other}, logrus.NewEntry(logrus.New()), func() { loads <- struct{}{} })
	if err != nil {
		t.Fatal(err)
	}
	<-loads // at once
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"the folder is made", func() error { return os.MkdirAll(dir, 0o755) }},
		{"a file is made", func() error { return os.WriteFile(filepath.Join(dir, "a"), nil, 0o644) }},
		{"its mode changes", func() error { return os.Chmod(filepath.Join(dir, "a"), 0o600) }},
		{"another takes its place", func() error {
			if err := os.WriteFile(filepath.Join(root, "new"), nil, 0o644); err != nil {
				return err
			}
			return os.Rename(filepath.Join(root, "new"), filepath.Join(dir, "a"))
		}},
		{"a folder above is renamed", func() error { return os.Rename(filepath.Join(root, "etc"), filepath.Join(root, "old")) }},
		{"it is made anew", func() error { return os.MkdirAll(dir, 0o755) }},
		{"a file comes into that", func() error { return os.WriteFile(filepath.Join(dir, "b"), nil, 0o644) }},
		{"the second folder is made", func() error { return os.Mkdir(other, 0o755) }},
		{"a file goes", func() error { return os.Remove(filepath.Join(dir, "b")) }},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-loads:
		case <-time.After(time.Minute):
			t.Fatalf("%s: nobody reads it", step.what)
		}
		for settled := false; !settled; { // a step may be several events
			select {
			case <-loads:
			case <-time.After(3 * quiet):
				settled = true
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "c"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	select {
	case <-loads:
		t.Error("read after Close")
	case <-time.After(3 * quiet):
	}
}
