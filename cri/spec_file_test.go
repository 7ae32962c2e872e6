package cri

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// A specification that cannot be written again, for want of room, is the one that it was.
func TestASpecificationIsReplacedAsAWhole(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts a tmpfs")
	}
	state := t.TempDir()
	if err := unix.Mount("tmpfs", state, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(state, 0); err != nil {
			t.Error(err)
		}
	})
	s := &Service{Options: Options{StateDir: state, Log: logrus.NewEntry(logrus.New())}}
	if err := s.writeSpec("c1", &specs.Spec{Hostname: "old"}); err != nil {
		t.Fatal(err)
	}
	if err := s.writeSpec("c1", &specs.Spec{Hostname: strings.Repeat("x", 128<<10)}); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("got %v", err)
	}
	if sp, err := s.readSpec("c1"); err != nil || sp.Hostname != "old" {
		t.Errorf("read is %v, %v", sp, err)
	}
	if entries, _ := os.ReadDir(filepath.Join(state, "containers", "c1")); len(entries) != 1 {
		t.Errorf("left are %v", entries)
	}
}
