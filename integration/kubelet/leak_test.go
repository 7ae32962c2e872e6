package kubelet

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/leak"
)

// gcPeriod is how often a kubelet removes the sandboxes of pods that are gone (pkg/kubelet, ContainerGCPeriod).
const gcPeriod = time.Minute

// alarm takes what the leak check finds when no test is there to take it.
type alarm struct {
	testing.TB
	failed bool
}

// Helper is part of testing.TB.
func (a *alarm) Helper() {}

// Errorf prints a finding.
func (a *alarm) Errorf(format string, args ...any) {
	a.failed = true
	fmt.Fprintf(os.Stderr, format+"\n", args...)
}

// Fatalf prints why there can be no finding, and ends the check.
func (a *alarm) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

// takeLeaks notes what there is before the first pod.
func (n *node) takeLeaks() *leak.Snapshot {
	l := n.Lab
	entries := func(dir string) func() ([]string, error) {
		return func() ([]string, error) {
			list, err := os.ReadDir(dir)
			if errors.Is(err, fs.ErrNotExist) {
				return nil, nil
			}
			var names []string
			for _, e := range list {
				names = append(names, e.Name())
			}
			return names, err
		}
	}
	engine := filepath.Join(l.RootDir(), "engine")
	return leak.Take(&alarm{}, leak.Scope{
		MountDirs: []string{l.Dir, n.Disk},
		FileDirs: []string{filepath.Join(l.RootDir(), "cni/attachments"), filepath.Join(l.RootDir(), "cni/results"),
			filepath.Join(l.RootDir(), "volumes"), l.StateDir(), l.LogDir(), filepath.Join(n.KubeletDir(), "pods")},
		CNIDirs: []string{l.Network.IPAM},
		Link:    func(_, master string) bool { return master == l.Network.Bridge },
		Rule:    func(rule string) bool { return strings.Contains(rule, l.Network.Name) },
		Held: map[string]func() ([]string, error){
			"cgroup":            n.podCgroups,
			"process":           l.Processes,
			"blob":              entries(filepath.Join(engine, "content/blobs/sha256")),
			"ingest":            entries(filepath.Join(engine, "content/ingest")),
			"snapshot's folder": entries(filepath.Join(engine, "overlayfs/snapshots")),
			"link to a log": func() ([]string, error) {
				links, err := filepath.Glob("/var/log/containers/*")
				return slices.DeleteFunc(links, func(link string) bool {
					target, _ := os.Readlink(link)
					return !strings.HasPrefix(target, l.LogDir())
				}), err
			},
		},
		Settle: 15 * time.Second,
	})
}

// podCgroups gives the cgroups below those that the kubelet keeps.
func (n *node) podCgroups() ([]string, error) {
	all, err := n.Lab.Cgroups()
	return slices.DeleteFunc(all, func(path string) bool {
		return slices.Contains([]string{"kubepods", "besteffort", "burstable"}, filepath.Base(path))
	}), err
}

// leftBehind says whether the pods, which are all deleted, have left anything. It waits until the kubelet has removed the
// last sandbox, and removes the images.
func (n *node) leftBehind(before *leak.Snapshot) bool {
	ctx, cancel := context.WithTimeout(context.Background(), gcPeriod+30*time.Second)
	defer cancel()
	a := &alarm{}
	for {
		pods, err := n.Lab.Daemon.Runtime.ListPodSandbox(ctx, &runtime.ListPodSandboxRequest{})
		if err != nil || ctx.Err() != nil {
			a.Errorf("left behind: sandboxes %v (%v)", pods.GetItems(), err)
			break
		}
		if len(pods.Items) == 0 {
			break
		}
		time.Sleep(200 * time.Millisecond) // the kubelet tells nobody of its collections
	}
	images, err := n.Lab.Daemon.Images.ListImages(ctx, &runtime.ListImagesRequest{})
	if err != nil {
		a.Errorf("list images: %v", err)
	}
	for _, i := range images.GetImages() {
		if _, err := n.Lab.Daemon.Images.RemoveImage(ctx, &runtime.RemoveImageRequest{Image: &runtime.ImageSpec{Image: i.Id}}); err != nil {
			a.Errorf("remove image %s: %v", i.Id, err)
		}
	}
	before.Check(a)
	return a.failed
}
