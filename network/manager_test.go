package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/atomicfile"
)

func TestCloseTakesTheMountOfPinsAwayWithTheLastPin(t *testing.T) {
	n := newNode(t)
	mounted := func() bool {
		yes, err := mountinfo.Mounted(n.o.nsDir())
		must(t, err)
		return yes
	}
	pod := testPod("pod1")
	ns, err := n.Pin(t.Context(), pod)
	must(t, err)
	m, err := New(t.Context(), n.o)
	must(t, err)
	must(t, m.Close())
	if !mounted() || !isNamespace(ns.Net) {
		t.Error("Close took a pin away")
	}
	must(t, n.Unpin(t.Context(), pod.ID))
	m, err = New(t.Context(), n.o)
	must(t, err)
	if mounts, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(n.o.nsDir())); err != nil || len(mounts) != 1 {
		t.Errorf("mounts on the folder of pins are %v, %v, want one however often the daemon starts", mounts, err)
	}
	must(t, m.Close())
	if mounted() {
		t.Error("the mount for pins is left")
	}
	must(t, shareNSDir(n.o.nsDir())) // as the node's own Close expects it
}

func TestNewRefusesBadOptions(t *testing.T) {
	good := Options{StateDir: "/a", CNIConfDir: "/b", CNIBinDirs: []string{"/c"}, CNICacheDir: "/d"}
	for name, spoil := range map[string]func(*Options){
		"relative state":   func(o *Options) { o.StateDir = "a" },
		"no configuration": func(o *Options) { o.CNIConfDir = "" },
		"relative plugins": func(o *Options) { o.CNIBinDirs = []string{"/c", "c"} },
		"no plugins":       func(o *Options) { o.CNIBinDirs = nil },
		"no cache":         func(o *Options) { o.CNICacheDir = "" },
	} {
		o := good
		spoil(&o)
		if m, err := New(t.Context(), o); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: got %v, %v", name, m, err)
		}
	}
}

func TestWorkOnOnePodWaitsItsTurn(t *testing.T) {
	var l keyedLock
	unlock, err := l.lock(t.Context(), "a")
	must(t, err)
	other, err := l.lock(t.Context(), "b")
	must(t, err)
	other()
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := l.lock(ctx, "a"); err == nil || !strings.Contains(err.Error(), "sandbox a") {
		t.Errorf("got %v, want to be told what is waited for", err)
	}
	unlock()
	unlock, err = l.lock(t.Context(), "a")
	must(t, err)
	unlock()
	if len(l.held) > 0 {
		t.Errorf("locks %v are kept for nobody", l.held)
	}
}

func TestBrokenNoteOfAnAttachmentIsNamed(t *testing.T) {
	n := newNode(t)
	j := n.cni.journal
	must(t, j.put(attachment{Pod: "pod1", Config: []byte("{}")}))
	mustWrite(t, j.path("pod1"), "{", 0o600)
	err := n.Detach(t.Context(), Pod{ID: "pod1"})
	if err == nil || !strings.Contains(err.Error(), j.path("pod1")) {
		t.Errorf("got %v, want the file's path", err)
	}
	must(t, j.drop("pod1"))
	must(t, n.Detach(t.Context(), Pod{ID: "pod1"}))
}

func TestWritingToAFullDiskLeavesNothing(t *testing.T) {
	needRoot(t)
	text := strings.Repeat("x", 64<<10)
	for name, write := range map[string]func(path string) error{
		"note of an attachment": func(path string) error { return atomicfile.Write(path, []byte(text), atomicfile.Durable()) },
		"file of a pod":         func(path string) error { return writeFile(path, text, Pod{}) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=16k"))
			defer func() { must(t, unix.Unmount(dir, 0)) }()
			if err := write(filepath.Join(dir, "file")); !errors.Is(err, unix.ENOSPC) {
				t.Errorf("got %v, want that no space is left", err)
			}
			entries, err := os.ReadDir(dir)
			if len(entries) != 0 || err != nil {
				t.Errorf("%v is left, %v", entries, err)
			}
		})
	}
}

func TestUnfinishedNoteOfAKilledDaemonGoesWithDetach(t *testing.T) {
	n := newNode(t)
	must(t, os.MkdirAll(n.cni.journal.dir, 0o700))
	left := n.cni.journal.path("pod1") + atomicfile.Ending
	mustWrite(t, left, "{", 0o600)
	must(t, n.Detach(t.Context(), Pod{ID: "pod1"}))
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left (%v)", left, err)
	}
}

func BenchmarkPin(b *testing.B) {
	for name, pod := range map[string]Pod{"plain": {}, "userns": {UIDs: userIDs, GIDs: userIDs}} {
		b.Run(name, func(b *testing.B) {
			dir := b.TempDir()
			m, err := New(b.Context(), Options{
				StateDir: filepath.Join(dir, "state"), CNIConfDir: dir, CNICacheDir: filepath.Join(dir, "cache"), CNIBinDirs: []string{dir},
			})
			if err != nil {
				b.Skip(err)
			}
			defer m.Close()
			for i := 0; b.Loop(); i++ {
				pod.ID = fmt.Sprintf("pod%d", i)
				if _, err := m.Pin(b.Context(), pod); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := m.Unpin(b.Context(), pod.ID); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}
