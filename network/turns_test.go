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
)

// hangsOn is a plugin that makes a file once it is asked that, and does not come back as long as the file is there.
const hangsOn = `[ $CNI_COMMAND != %s ] || { : > %[2]s; while [ -e %[2]s ]; do sleep 0.02; done; exit 0; }
[ $CNI_COMMAND != ADD ] || echo '%[3]s'`

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for until := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("never came true: %s", what)
		}
	}
}

// A GC that hangs is ended where a pod would have to wait for it.
func TestPodsDoNotWaitForGC(t *testing.T) {
	n := newNode(t, func(o *Options) { o.CNITimeout = 10 * time.Minute })
	file := filepath.Join(t.TempDir(), "hangs")
	n.fakePlugin(t, "fake", fmt.Sprintf(hangsOn, "GC", file, fakeResult))
	n.configure(t, strings.Replace(fakeConf, "1.0.0", "1.1.0", 1))
	collected := make(chan error, 1)
	go func() { collected <- n.GC(context.Background(), nil) }()
	await(t, "the plugin is asked", func() bool { return exists(file) })
	pod := testPod("pod1")
	n.pin(t, pod)
	if _, err := n.Attach(t.Context(), pod); err != nil {
		t.Error(err)
	}
	if err := <-collected; !errors.Is(err, errYield) || !errdefs.IsUnavailable(err) {
		t.Errorf("GC: %v", err)
	}
	must(t, n.Detach(t.Context(), pod))
}

// GC waits for no pod that is being connected: the plugins are asked at another time.
func TestGCDoesNotBeginBesideAnADD(t *testing.T) {
	n := newNode(t)
	file := filepath.Join(t.TempDir(), "hangs")
	n.fakePlugin(t, "fake", fmt.Sprintf(hangsOn, "ADD", file, "")) // its answer is no result
	n.configure(t, strings.Replace(fakeConf, "1.0.0", "1.1.0", 1))
	pod := testPod("pod1")
	n.pin(t, pod)
	ctx, cancel := context.WithCancel(t.Context())
	attached := make(chan error, 1)
	go func() {
		_, err := n.Attach(ctx, pod)
		attached <- err
	}()
	await(t, "the plugin is asked", func() bool { return exists(file) })
	if err := n.GC(t.Context(), []Pod{pod}); !errors.Is(err, ErrBusy) {
		t.Errorf("GC beside an ADD: %v", err)
	}
	cancel()
	if err := <-attached; err == nil {
		t.Error("a pod is connected by a plugin that was killed")
	}
	must(t, n.GC(t.Context(), nil))
}

// What the plugins say of themselves decides, and one that hangs holds nobody up.
func TestReadyAsksThePlugins(t *testing.T) {
	n := newNode(t)
	file, broken := filepath.Join(t.TempDir(), "hangs"), filepath.Join(t.TempDir(), "broken")
	mustWrite(t, broken, "", 0o644)
	n.fakePlugin(t, "fake", fmt.Sprintf(`[ -e %s ] && { echo '{"cniVersion":"1.1.0","code":50,"msg":"no route to the controller"}'; exit 1; }
`, broken)+fmt.Sprintf(hangsOn, "STATUS", file, fakeResult))
	n.configure(t, fakeConf)
	if err := n.Ready(t.Context()); err != nil {
		t.Errorf("a network of a spec without STATUS: %v", err)
	}
	n.configure(t, strings.Replace(fakeConf, "1.0.0", "1.1.0", 1))
	err := n.Ready(t.Context())
	if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "no route to the controller") || !strings.Contains(err.Error(), "STATUS") {
		t.Errorf("a plugin that cannot connect pods: %v", err)
	}
	must(t, os.Remove(broken))
	// From now on it hangs: the answer is what it has said last, and then that it does not answer.
	await(t, "it is told that the plugin does not answer", func() bool {
		err := n.Ready(t.Context())
		return err != nil && strings.Contains(err.Error(), "took longer than")
	})
	await(t, "the plugin answers", func() bool {
		if exists(file) {
			must(t, os.Remove(file))
		}
		return n.Ready(t.Context()) == nil
	})
}
