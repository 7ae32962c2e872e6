package integration

import (
	"bytes"
	"context"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	bolt "go.etcd.io/bbolt"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// editMeta changes the metadata database of a daemon that has ended.
func editMeta(t *testing.T, n *harness.Node, fn func(ctx context.Context, db *metadata.DB)) {
	t.Helper()
	b, err := bolt.Open(filepath.Join(n.RootDir(), "engine", "meta.db"), 0o600, &bolt.Options{Timeout: harness.Patience(harness.LongEnough)})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	fn(namespaces.WithNamespace(harness.Context(t), "cri-pouch"), metadata.NewDB(b, nil, nil))
}

// breakRecord makes the record of a sandbox or container unreadable.
func breakRecord(t *testing.T, n *harness.Node, id string) {
	t.Helper()
	editMeta(t, n, func(ctx context.Context, db *metadata.DB) {
		const key = "io.cri-pouch.record"
		if c, err := metadata.NewContainerStore(db).Get(ctx, id); err == nil {
			c.Extensions[key] = &record{c.Extensions[key].GetTypeUrl(), []byte(`{"id": "` + id + `", "sandb`)}
			if _, err := metadata.NewContainerStore(db).Update(ctx, c, "extensions."+key); err != nil {
				t.Fatal(err)
			}
			return
		}
		sb, err := metadata.NewSandboxStore(db).Get(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		sb.Extensions[key] = &record{sb.Extensions[key].GetTypeUrl(), []byte("\x00\x01")}
		if _, err := metadata.NewSandboxStore(db).Update(ctx, sb, "extensions."+key); err != nil {
			t.Fatal(err)
		}
	})
}

// record is a typeurl.Any.
type record struct {
	url   string
	value []byte
}

func (r *record) GetTypeUrl() string { return r.url }
func (r *record) GetValue() []byte   { return r.value }

func dropCopy(t *testing.T, n *harness.Node, kind, id string) {
	t.Helper()
	if err := os.Remove(filepath.Join(n.StateDir(), "records", kind, id+".json")); err != nil {
		t.Fatal(err)
	}
}

func findingsOf(t *testing.T, n *harness.Node) map[string]*pouchv1.Finding {
	t.Helper()
	r, err := n.Daemon.Pouch.ListFindings(harness.Context(t), &pouchv1.ListFindingsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]*pouchv1.Finding{}
	for _, f := range r.Findings {
		all[f.Id] = f
	}
	return all
}

// lives fails the test unless the process is the one that it was.
type lives struct {
	pid   int
	start string
}

func livesNow(t *testing.T, pid int) lives {
	t.Helper()
	l := lives{pid, startTime(pid)}
	if l.start == "" {
		t.Fatalf("process %d does not run", pid)
	}
	return l
}

func (l lives) check(t *testing.T) {
	t.Helper()
	if startTime(l.pid) != l.start {
		t.Errorf("process %d was ended", l.pid)
	}
}

// startTime is empty for a process that is not there, or dead.
func startTime(pid int) string {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ""
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if fields[0] == "Z" {
		return ""
	}
	return fields[19]
}

// serves checks that a container is known, answers and can be stopped and removed.
func serves(t *testing.T, c *harness.Container, l lives) {
	t.Helper()
	l.check(t)
	st := c.Status(t)
	if st.State != runtime.ContainerState_CONTAINER_RUNNING || st.Metadata.Name != c.Config.Metadata.Name || st.Metadata.Attempt != c.Config.Metadata.Attempt ||
		!maps.Equal(st.Labels, c.Config.Labels) || !maps.Equal(st.Annotations, c.Config.Annotations) {
		t.Errorf("status is %v", st)
	}
	pod := c.Pod.Status(t)
	if pod.State != runtime.PodSandboxState_SANDBOX_READY || pod.Metadata.Name != c.Pod.Config.Metadata.Name || !maps.Equal(pod.Labels, c.Pod.Config.Labels) {
		t.Errorf("status of its sandbox is %v", pod)
	}
	if got := c.Exec(t, "echo", "yes"); strings.TrimSpace(got) != "yes" {
		t.Errorf("exec says %q", got)
	}
}

// A record that cannot be read is taken from its copy: nobody notices.
func TestARecordThatCannotBeReadIsTakenFromItsCopy(t *testing.T) {
	n := harness.Start(t)
	p := n.RunPod(t)
	c := p.Run(t, "app", func(c *runtime.ContainerConfig) {
		c.Labels, c.Annotations = map[string]string{"a": "b"}, map[string]string{"c": "d"}
	})
	l := livesNow(t, pidOf(t, c))
	n.KillDaemon(t)
	breakRecord(t, n, c.ID)
	breakRecord(t, n, p.ID)
	n.StartDaemon(t)
	serves(t, c, l)
	if f := findingsOf(t, n); len(f) > 0 {
		t.Errorf("findings are %v", f)
	}
	// The database has it again.
	n.KillDaemon(t)
	dropCopy(t, n, "containers", c.ID)
	dropCopy(t, n, "sandboxes", p.ID)
	n.StartDaemon(t)
	serves(t, c, l)
	c.Stop(t, 0)
	c.Remove(t)
	p.Remove(t)
}

// What neither record nor copy tells is left alone, until a person or the kubelet says otherwise.
func TestWhatIsNotUnderstoodIsLeftAlone(t *testing.T) {
	metrics, address := metricsOption(t)
	for name, tt := range map[string]struct {
		damage func(t *testing.T, n *harness.Node, c *harness.Container)
		kinds  func(c *harness.Container) map[string]string
	}{
		"container record": {
			damage: func(t *testing.T, n *harness.Node, c *harness.Container) {
				breakRecord(t, n, c.ID)
				dropCopy(t, n, "containers", c.ID)
			},
			kinds: func(c *harness.Container) map[string]string { return map[string]string{c.ID: "container-record"} },
		},
		"sandbox record": {
			damage: func(t *testing.T, n *harness.Node, c *harness.Container) {
				breakRecord(t, n, c.Pod.ID)
				dropCopy(t, n, "sandboxes", c.Pod.ID)
			},
			kinds: func(c *harness.Container) map[string]string {
				return map[string]string{c.ID: "lost-sandbox", c.Pod.ID: "sandbox-record"}
			},
		},
		"no record": {
			damage: func(t *testing.T, n *harness.Node, c *harness.Container) {
				dropCopy(t, n, "containers", c.ID)
				editMeta(t, n, func(ctx context.Context, db *metadata.DB) {
					if err := metadata.NewContainerStore(db).Delete(ctx, c.ID); err != nil {
						t.Fatal(err)
					}
				})
			},
			kinds: func(c *harness.Container) map[string]string { return map[string]string{c.ID: "unknown-task"} },
		},
	} {
		for _, word := range []string{"a person's word", "the kubelet's word"} {
			t.Run(name+", "+word, func(t *testing.T) {
				n := harness.Start(t, metrics)
				p := n.RunPod(t)
				c := p.Run(t, "app")
				other := n.RunPod(t).Run(t, "other")
				l, o := livesNow(t, pidOf(t, c)), livesNow(t, pidOf(t, other))
				n.KillDaemon(t)
				tt.damage(t, n, c)
				for range 2 {
					n.StartDaemon(t)
					l.check(t)
					serves(t, other, o)
					found := findingsOf(t, n)
					got := map[string]string{}
					for id, f := range found {
						got[id] = f.Kind
						if f.Reason == "" || f.Remedy == "" {
							t.Errorf("finding %v explains nothing", f)
						}
						if n := metric(t, address, `cri_pouch_findings{kind="`+f.Kind+`"}`); n != "1" {
							t.Errorf("the metric counts %q of kind %s", n, f.Kind)
						}
					}
					if !maps.Equal(got, tt.kinds(c)) || !found[c.ID].GetRunning() {
						t.Errorf("findings are %v", found)
					}
					if out, err := exec.Command(n.Binary, "--socket", n.Socket(), "status").CombinedOutput(); err != nil || !strings.Contains(string(out), c.ID) {
						t.Errorf("status says %s (%v)", out, err)
					}
					l.check(t)
					n.KillDaemon(t)
				}
				n.StartDaemon(t)
				if word == "a person's word" {
					for _, kind := range slices.Sorted(maps.Values(tt.kinds(c))) {
						if out, err := exec.Command(n.Binary, "--socket", n.Socket(), "repair", "--apply", kind).CombinedOutput(); err != nil {
							t.Errorf("repair of %s: %s (%v)", kind, out, err)
						}
					}
				} else {
					ctx := harness.Context(t)
					if _, err := n.Daemon.Runtime.StopContainer(ctx, &runtime.StopContainerRequest{ContainerId: c.ID}); err != nil {
						t.Error(err)
					}
					if startTime(l.pid) == l.start {
						t.Error("it runs after StopContainer")
					}
					if _, err := n.Daemon.Runtime.RemoveContainer(ctx, &runtime.RemoveContainerRequest{ContainerId: c.ID}); err != nil {
						t.Error(err)
					}
					if _, err := n.Daemon.Runtime.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: p.ID}); err != nil {
						t.Error(err)
					}
					if _, err := n.Daemon.Runtime.RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: p.ID}); err != nil {
						t.Error(err)
					}
				}
				if startTime(l.pid) == l.start {
					t.Error("it runs after its removal")
				}
				if f := findingsOf(t, n); len(f) > 0 {
					t.Errorf("findings are %v", f)
				}
				serves(t, other, o)
			})
		}
	}
}

// Root and state belong together; a mismatch ends nothing.
func TestAnotherRootIsRefused(t *testing.T) {
	n := harness.Start(t)
	p := n.RunPod(t)
	c := p.Run(t, "app")
	l := livesNow(t, pidOf(t, c))
	n.KillDaemon(t)
	refused := func(words ...string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), harness.Patience(harness.LongEnough))
		defer cancel()
		err := n.Daemon.Start(ctx)
		if err == nil {
			t.Fatal("the daemon has started")
		}
		for _, w := range words {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("error is %v, without %q", err, w)
			}
		}
		l.check(t)
	}
	right := n.RootDir()
	for _, root := range []string{filepath.Join(n.Dir, "other-root"), filepath.Join(n.Dir, "other-root")} { // new, then with what the first try left
		n.Root = root
		refused(right, root, "belongs to root")
	}
	n.Root = right
	path := filepath.Join(right, "root.json")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(`{"id": "x", "schema": 99, "writtenBy": "v9.9"}`)
	refused("v9.9", "99")
	write(`{"id": `)
	refused(path)
	write(string(whole))
	n.StartDaemon(t)
	serves(t, c, l)
	if err := os.RemoveAll(filepath.Join(n.Dir, "other-root")); err != nil {
		t.Fatal(err)
	}
}

// Containers run on over a database that is lost or damaged, and clients find them as they were.
func TestADamagedDatabaseEndsNothing(t *testing.T) {
	damages := map[string]func(t *testing.T, path string){
		"lost":  func(t *testing.T, path string) { must(t, os.Remove(path)) },
		"empty": func(t *testing.T, path string) { must(t, os.Truncate(path, 0)) },
		"cut": func(t *testing.T, path string) {
			db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true})
			must(t, err)
			var size int64
			must(t, db.View(func(tx *bolt.Tx) error { size = tx.Size(); return nil }))
			must(t, db.Close())
			must(t, os.Truncate(path, size-1))
		},
		"zeros": func(t *testing.T, path string) {
			b, err := os.ReadFile(path)
			must(t, err)
			clear(b[2*os.Getpagesize():])
			must(t, os.WriteFile(path, b, 0o600))
		},
	}
	for _, db := range []string{"meta.db", "overlayfs/metadata.db"} {
		for name, damage := range damages {
			t.Run(db+"/"+name, func(t *testing.T) {
				n := harness.Start(t)
				p := n.RunPod(t)
				c := p.Run(t, "app", func(c *runtime.ContainerConfig) { c.Labels = map[string]string{"a": "b"} })
				c.Exec(t, "sh", "-c", "echo written > /file")
				l := livesNow(t, pidOf(t, c))
				n.KillDaemon(t)
				damage(t, filepath.Join(n.RootDir(), "engine", db))
				for range 2 {
					n.StartDaemon(t)
					serves(t, c, l)
					if got := strings.TrimSpace(c.Exec(t, "cat", "/file")); got != "written" {
						t.Errorf("its file has %q", got)
					}
					n.KillDaemon(t)
				}
				n.StartDaemon(t)
				aside := ""
				for id, f := range findingsOf(t, n) {
					if f.Kind != "damaged-store" {
						t.Errorf("finding %v", f)
					}
					aside = id
				}
				if aside == "" {
					t.Fatal("the damaged store is no finding")
				}
				repair := func() error {
					_, err := n.Daemon.Pouch.Repair(harness.Context(t), &pouchv1.RepairRequest{Kind: "damaged-store"})
					return err
				}
				if err := repair(); err == nil || !strings.Contains(err.Error(), c.ID) {
					t.Errorf("the store goes under a container that runs from it: %v", err)
				}
				c.Exec(t, "cat", "/file")
				// The node takes new work, and what ran from the old store can be replaced.
				next := p.Run(t, "app", func(c *runtime.ContainerConfig) { c.Metadata.Attempt = 1 })
				next.Exec(t, "true")
				c.Stop(t, 0)
				c.Remove(t)
				if err := repair(); err != nil {
					t.Error(err)
				}
				if _, err := os.Stat(aside); err == nil {
					t.Errorf("%s is there", aside)
				}
				next.Exec(t, "true")
			})
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
