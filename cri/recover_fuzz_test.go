package cri

import (
	"context"
	"io"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/sirupsen/logrus"

	"github.com/cri-pouch/cri-pouch/cri/model"
	"github.com/cri-pouch/cri-pouch/internal/atomicfile"
	"github.com/cri-pouch/cri-pouch/network"
	"github.com/cri-pouch/cri-pouch/shim/task"
	"github.com/cri-pouch/cri-pouch/snapshot"
)

// heldTasks is a shim that holds running containers and notes who would end them.
type heldTasks struct {
	task.Runtime
	held []task.Info

	mu    sync.Mutex
	ended []string
}

func (h *heldTasks) List(context.Context) ([]task.Info, error) { return h.held, nil }

func (h *heldTasks) State(_ context.Context, id string) (task.Info, error) {
	for _, i := range h.held {
		if i.ID == id {
			return i, nil
		}
	}
	return task.Info{}, errdefs.ErrNotFound
}

func (h *heldTasks) Kill(_ context.Context, id string, _ uint32, _ bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended = append(h.ended, id)
	return errdefs.ErrNotFound
}

func (h *heldTasks) Delete(context.Context, string) (task.Exit, error) {
	return task.Exit{}, errdefs.ErrFailedPrecondition // it runs
}

func (h *heldTasks) Events(ctx context.Context) (<-chan task.Event, error) {
	events := make(chan task.Event)
	context.AfterFunc(ctx, func() { close(events) })
	return events, nil
}

// damagedRecords are a database's.
type damagedRecords struct {
	SandboxRecords
	Rootfs
	sandboxes, containers map[string][]byte
}

func (d damagedRecords) Sandboxes(context.Context) (map[string][]byte, error) {
	return d.sandboxes, nil
}
func (d damagedRecords) PutSandbox(context.Context, string, []byte) error   { return nil }
func (d damagedRecords) DeleteSandbox(context.Context, string) error        { return nil }
func (d damagedRecords) Records(context.Context) (map[string][]byte, error) { return d.containers, nil }
func (d damagedRecords) Update(context.Context, string, []byte) error       { return nil }
func (d damagedRecords) Adopt(context.Context, string, []byte) error        { return nil }
func (d damagedRecords) Unmount(context.Context, string) error              { return nil }
func (d damagedRecords) Remove(context.Context, string) error               { return nil }

type quietNetwork struct{ Network }

func (quietNetwork) Namespaces(network.Pod) network.Namespaces { return network.Namespaces{} }
func (quietNetwork) GC(context.Context, []network.Pod) error   { return nil }
func (quietNetwork) Detach(context.Context, network.Pod) error { return nil }
func (quietNetwork) Unpin(context.Context, string) error       { return nil }
func (quietNetwork) RemoveFiles(context.Context, string) error { return nil }

type noVolumes struct{ Volumes }

func (noVolumes) Sweep(func(string) bool) error                     { return nil }
func (noVolumes) Purge(context.Context) error                       { return nil }
func (noVolumes) Remove(context.Context, string, func() bool) error { return nil }

type noImages struct{ Images }

func (noImages) Get(context.Context, string) (snapshot.Image, error) {
	return snapshot.Image{}, errdefs.ErrNotFound
}

// FuzzDamagedRecords recovers over records and copies of any content while the shim holds a container and a sandbox's holder:
// recovery neither panics nor ends what it does not understand.
func FuzzDamagedRecords(f *testing.F) {
	sandbox, err := model.EncodeSandbox(model.Sandbox{ID: "s1", CreatedAt: time.Unix(1, 0), State: model.SandboxReady, Config: model.SandboxConfig{Name: "pod", UID: "u", Namespace: "ns"}, BootID: readBootID()})
	if err != nil {
		f.Fatal(err)
	}
	container, err := model.EncodeContainer(model.Container{ID: "c1", SandboxID: "s1", CreatedAt: time.Unix(2, 0), Config: model.ContainerConfig{Name: "app"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sandbox, container, sandbox, container)
	f.Add(sandbox, container, []byte{}, []byte{})
	f.Add(sandbox[:10], container, []byte(nil), container)
	f.Add(sandbox, container[1:], sandbox, []byte("null"))
	f.Add([]byte(`{"schema":2,"id":"s1","state":"ready"}`), []byte(`{"schema":-1,"id":"c1","sandboxID":"s1"}`), []byte("{}"), []byte("[]"))
	f.Add([]byte(`{"id":"s1","state":"creating"}`), container, []byte("{}"), []byte("[]"))
	f.Fuzz(func(t *testing.T, sandbox, container, sandboxCopy, containerCopy []byte) {
		synctest.Test(t, func(t *testing.T) { recoverOver(t, sandbox, container, sandboxCopy, containerCopy) })
	})
}

func recoverOver(t *testing.T, sandbox, container, sandboxCopy, containerCopy []byte) {
	log := logrus.New()
	log.SetOutput(io.Discard)
	shim := &heldTasks{held: []task.Info{{ID: "c1", Status: task.Running, StartedAt: time.Unix(3, 0), Pid: 2}, {ID: "s1", Status: task.Running, StartedAt: time.Unix(3, 0), Pid: 3}}}
	records := damagedRecords{sandboxes: map[string][]byte{}, containers: map[string][]byte{}}
	if len(sandbox) > 0 {
		records.sandboxes["s1"] = sandbox
	}
	if len(container) > 0 {
		records.containers["c1"] = container
	}
	s := New(Options{
		StateDir: t.TempDir(), Runtime: shim, Network: quietNetwork{}, Images: noImages{}, Rootfs: records, Records: records, Volumes: noVolumes{}, Log: logrus.NewEntry(log),
	})
	if err := s.makeCopyDirs(); err != nil {
		t.Fatal(err)
	}
	for path, b := range map[string][]byte{s.copyPath(sandboxRecords, "s1"): sandboxCopy, s.copyPath(containerRecords, "c1"): containerCopy} {
		if len(b) == 0 {
			continue
		}
		if err := atomicfile.Write(path, b); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	shim.mu.Lock()
	ended := append([]string{}, shim.ended...)
	shim.mu.Unlock()
	for _, id := range ended {
		if sb, err := s.index.sandbox("s1"); err == nil && sb.record().State == model.SandboxNotReady && id == "s1" {
			continue // the sandbox was stopped, its holder goes
		}
		t.Errorf("%s was ended", filepath.Base(id))
	}
	for _, id := range []string{"c1", "s1"} {
		_, cErr := s.index.container(id)
		_, sErr := s.index.sandbox(id)
		if _, found := s.findings.get(id); cErr != nil && sErr != nil && !found {
			t.Errorf("%s is neither known nor found", id)
		}
	}
	s.Close()
}
