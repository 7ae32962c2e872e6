package dirwatch

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/cri-pouch/cri-pouch/integration/faults"
)

func TestFoldersAreFollowedThatComeLater(t *testing.T) { followFolders(t) }

// Where root in a container has taken all instances or watches of the user, the folders are looked at.
func TestFoldersAreFollowedWithoutAnInstance(t *testing.T) {
	if faults.Again(t, "inotify_init1:error=EMFILE") {
		followFolders(t)
	}
}

func TestFoldersAreFollowedWithoutWatches(t *testing.T) {
	if faults.Again(t, "inotify_add_watch:error=ENOSPC:when=3+") {
		followFolders(t)
	}
}

func TestFoldersAreFollowedWithoutAPlaceInThePoller(t *testing.T) {
	if faults.Again(t, "epoll_ctl:error=ENOSPC:when=2+") {
		followFolders(t)
	}
}

// settle waits until a step, which may be several events, has been read.
func settle(loads chan struct{}) {
	for {
		select {
		case <-loads:
		case <-time.After(3 * quiet):
			return
		}
	}
}

func followFolders(t *testing.T) {
	root := t.TempDir()
	dir, other := filepath.Join(root, "etc", "conf.d"), filepath.Join(root, "usr")
	loads := make(chan struct{}, 100)
	w := Open("tests", []string{dir, other}, logrus.NewEntry(logrus.New()), func() { loads <- struct{}{} })
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
		settle(loads)
	}
	w.Close()
	if err := os.WriteFile(filepath.Join(dir, "c"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	select {
	case <-loads:
		t.Error("read after Close")
	case <-time.After(3 * quiet):
	}
}
