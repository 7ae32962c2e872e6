package harness

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/leak"
)

// takeLeaks notes what the node has before the test's first pod. Only what carries the lab's name is looked at: other
// tests may run on the same machine. A pod is run first: folders, connections and descriptors that are made once and
// then kept are no leak.
func (n *Node) takeLeaks(t testing.TB) *leak.Snapshot {
	t.Helper()
	if _, err := n.Daemon.Runtime.Version(Context(t), &runtime.VersionRequest{}); err != nil { // connects
		t.Fatal(err)
	}
	if !n.NoCNI {
		n.warmUp(t)
	}
	first := n.processes()
	return leak.Take(t, leak.Scope{
		MountDirs: []string{n.Dir},
		FileDirs:  []string{filepath.Join(n.RootDir(), "cni"), n.StateDir()},
		CNIDirs:   []string{n.Network.IPAM},
		Link:      func(_, master string) bool { return master == n.Network.Bridge },
		Rule:      func(rule string) bool { return strings.Contains(rule, n.Network.Name) },
		// A daemon or shim that the test has started since has its own descriptors.
		Pids: func() []int {
			return slices.DeleteFunc(n.processes(), func(pid int) bool { return !slices.Contains(first, pid) })
		},
		Held: map[string]func() ([]string, error){
			"cgroup":            n.Cgroups,
			"process of a test": n.Processes,
			"blob":              n.entries("engine/content/blobs/sha256"),
			"ingest":            n.entries("engine/content/ingest"),
			"snapshot's folder": n.entries("engine/overlayfs/snapshots"),
			"volume of a pod":   n.entries("volumes"),
		},
		Settle: Patience(LongEnough),
	})
}

// entries lists a folder of the daemon's root; one that is not there is empty.
func (n *Node) entries(dir string) func() ([]string, error) {
	return func() ([]string, error) {
		list, err := os.ReadDir(filepath.Join(n.RootDir(), dir))
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

// processes gives the pids of daemon and shim.
func (n *Node) processes() []int {
	pids, _ := n.Daemon.Shims()
	if n.Daemon.Running() {
		pids = append(pids, n.Daemon.PID())
	}
	return pids
}

func (n *Node) warmUp(t testing.TB) {
	t.Helper()
	p := n.runPod(t, n.PodConfig(t))
	c := p.Run(t, "warm-up")
	c.Exec(t, "true")
	p.Remove(t)
	n.removeImages(Context(t), t)
	// Content is collected after the answer; leftovers of this pod would hide those of the test.
	blobs := filepath.Join(n.RootDir(), "engine/content/blobs/sha256")
	Eventually(t, "the content of removed images is collected", func() bool {
		entries, err := os.ReadDir(blobs)
		return err == nil && len(entries) == 0
	})
}

// checkLeaks removes the node's images and fails the test for each thing of its pods that is left, on the machine and in
// the daemon's store. A test that ended its daemon for good gets it back for this.
func (n *Node) checkLeaks(t testing.TB) {
	t.Helper()
	if n.before == nil {
		return // the daemon never ran
	}
	if !n.Daemon.Running() {
		n.StartDaemon(t)
	}
	ctx := Context(t)
	pods, err := n.Daemon.Runtime.ListPodSandbox(ctx, &runtime.ListPodSandboxRequest{})
	if err != nil {
		t.Errorf("list what is left: %v", err)
	}
	for _, p := range pods.GetItems() {
		t.Errorf("left behind: sandbox %s (%s)", p.Id, p.Metadata.GetName())
	}
	containers, err := n.Daemon.Runtime.ListContainers(ctx, &runtime.ListContainersRequest{})
	if err != nil {
		t.Errorf("list what is left: %v", err)
	}
	for _, c := range containers.GetContainers() {
		t.Errorf("left behind: container %s (%s)", c.Id, c.Metadata.GetName())
	}
	n.removeImages(ctx, t)
	n.before.Check(t)
	n.TerminateDaemon(t)
	n.checkStore(t)
	n.checkLog(t)
}

// checkLog fails the test for what no answer of the daemon tells: races, which a daemon built with the race detector
// writes to its log only, and panics that were caught at the edge.
func (n *Node) checkLog(t testing.TB) {
	t.Helper()
	b, err := os.ReadFile(n.Daemon.Log)
	if err != nil {
		t.Error(err)
	}
	text := strings.ReplaceAll(string(b), "panic: failpoint ", "") // deliberate
	for _, alarm := range []string{"WARNING: DATA RACE", "panic: ", "goroutine 1 ["} {
		if _, rest, found := strings.Cut(text, alarm); found {
			t.Errorf("the daemon's log has %q:\n%s%s", alarm, alarm, rest[:min(len(rest), 6000)])
		}
	}
}

func (n *Node) removeImages(ctx context.Context, t testing.TB) {
	t.Helper()
	images, err := n.Daemon.Images.ListImages(ctx, &runtime.ListImagesRequest{})
	if err != nil {
		t.Errorf("list images: %v", err)
	}
	for _, i := range images.GetImages() {
		if _, err := n.Daemon.Images.RemoveImage(ctx, &runtime.RemoveImageRequest{Image: &runtime.ImageSpec{Image: i.Id}}); err != nil {
			t.Errorf("remove image %s: %v", i.Id, err)
		}
	}
}

// checkStore reads the metadata database, whose daemon has ended, and fails the test for each object in it: pods and
// images are gone, so there must be none.
func (n *Node) checkStore(t testing.TB) {
	t.Helper()
	path := filepath.Join(n.RootDir(), "engine/meta.db")
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the daemon's database: %v", err)
		return
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, Timeout: Patience(LongEnough)})
	if err != nil {
		t.Errorf("open the daemon's database: %v", err)
		return
	}
	defer db.Close()
	err = db.View(func(tx *bolt.Tx) error {
		root := tx.Bucket([]byte("v1"))
		if root == nil {
			return nil
		}
		return root.ForEachBucket(func(namespace []byte) error {
			ns := root.Bucket(namespace)
			for _, kind := range [][]string{{"sandboxes"}, {"containers"}, {"leases"}, {"images"}, {"snapshots", "overlayfs"}, {"content", "blob"}, {"content", "ingests"}} {
				b := ns
				for _, name := range kind {
					if b != nil {
						b = b.Bucket([]byte(name))
					}
				}
				if b == nil {
					continue
				}
				if err := b.ForEach(func(k, _ []byte) error {
					t.Errorf("left behind in the store: %s %s", strings.Join(kind, "/"), k)
					return nil
				}); err != nil {
					return err
				}
			}
			return nil
		})
	})
	if err != nil {
		t.Errorf("read the daemon's database: %v", err)
	}
}
