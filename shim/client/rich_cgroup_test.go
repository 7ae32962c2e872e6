package client_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/richrun"
)

// own gives the folder of the container's cgroup that an init manages, in the hierarchy of v2 or in that of systemd on v1.
func (l *lab) own(id, hierarchy string) string {
	l.t.Helper()
	for _, mount := range []string{"/sys/fs/cgroup/" + hierarchy, "/sys/fs/cgroup"} {
		for _, inner := range []string{"/inner", ""} {
			dir := mount + l.cgroup + "/" + id + inner
			if _, err := os.Stat(dir); err == nil {
				return dir
			}
		}
	}
	l.t.Skipf("this host has no hierarchy %s", hierarchy)
	return ""
}

// An init makes so many cgroups of v2 and no more, also where v1 has the controllers.
func TestTheCgroupsOfAnInitAreBounded(t *testing.T) {
	l := newLab(t)
	r := l.richly("c", service+forever, "sleep 1000", func(_ *specs.Spec, plan *richrun.Plan, _ *richrun.App) { plan.Delegate = true })
	l.run(r)
	l.running(r)
	root := l.own("c", "unified")
	made, err := 0, error(nil)
	for ; err == nil && made <= 4096; made++ {
		err = os.Mkdir(filepath.Join(root, fmt.Sprint("wide", made)), 0o755)
	}
	if !errors.Is(err, unix.EAGAIN) || made < 4000 {
		t.Errorf("after %d cgroups: %v", made, err)
	}
	for i := range made - 1 {
		if err := os.Remove(filepath.Join(root, fmt.Sprint("wide", i))); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(root, strings.Repeat("x/", 33)), 0o755); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("33 cgroups in each other: %v", err)
	}
	l.kill("c")
	l.finish("c")
}

// On v1 nothing bounds them: with very many the container runs, is listed and ends like any other.
func TestVeryManyCgroupsOfAnInitOnV1(t *testing.T) {
	l := newLab(t)
	r := l.richly("c", service+forever, "sleep 1000", func(_ *specs.Spec, plan *richrun.Plan, _ *richrun.App) { plan.Delegate = true })
	l.run(r)
	l.running(r)
	root := l.own("c", "systemd")
	for i := range 20_000 {
		if err := os.Mkdir(filepath.Join(root, fmt.Sprint("wide", i)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if pids, err := l.client.Pids(l.ctx, "c"); err != nil || len(pids) < 2 {
		t.Errorf("processes %v, %v", pids, err)
	}
	if _, err := l.client.Stats(l.ctx, "c"); err != nil {
		t.Error(err)
	}
	l.kill("c")
	l.finish("c")
}
