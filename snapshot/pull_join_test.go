package snapshot

import (
	"context"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/cri-pouch/cri-pouch/engine"
)

// gate holds back the blob until it is opened; asked is closed when it was first asked for.
func (r *reg) gate(blob string) (asked chan struct{}, open func()) {
	asked = make(chan struct{})
	gate := make(chan struct{})
	var once, once2 sync.Once
	r.intercept(func(_ http.ResponseWriter, req *http.Request) bool {
		if isBlob(req, blob) {
			once.Do(func() { close(asked) })
			select {
			case <-gate:
			case <-req.Context().Done():
				return true
			}
		}
		return false
	})
	return asked, func() { once2.Do(func() { close(gate) }) }
}

func TestEqualPullsJoin(t *testing.T) {
	l := newLab(t)
	r := newReg(t)
	img := bigImage(t)
	ref := r.push("app:1", img)
	asked, open := r.gate(layerDigest(t, img))
	defer open()
	ids := make(chan string, 4)
	for range 4 {
		go func() {
			got, err := l.Pull(context.Background(), ref, nil)
			if err != nil {
				t.Error(err)
			}
			ids <- got.ID
		}()
	}
	<-asked
	quitter, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := l.Pull(quitter, ref, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller that gives up gets %v", err)
	}
	open()
	first := <-ids
	for range 3 {
		if id := <-ids; id != first || id == "" {
			t.Errorf("IDs %q and %q", first, id)
		}
	}
	if n := r.count("GET /v2/app/blobs/" + layerDigest(t, img)); n != 1 {
		t.Errorf("the layer was fetched %d times", n)
	}
	l.settled()
}

func TestAbandonedPullWaitsForARetryAndThenEnds(t *testing.T) {
	img := bigImage(t)
	for _, retry := range []bool{true, false} {
		l := newLab(t, func(o *Options) { o.AbandonedPull = 3 * time.Second })
		r := newReg(t)
		ref := r.push("app:1", img)
		asked, open := r.gate(layerDigest(t, img))
		ctx, cancel := context.WithCancel(context.Background())
		go func() { <-asked; cancel() }()
		if _, err := l.Pull(ctx, ref, nil); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if retry {
			time.AfterFunc(4*time.Second, open) // longer than an abandoned pull lives
			l.pull(ref)
			if n := r.count("GET /v2/app/blobs/" + layerDigest(t, img)); n != 1 {
				t.Errorf("the retry did not join: the layer was fetched %d times", n)
			}
			l.settled()
		} else {
			l.pulls.wait()
			l.eventuallyEmpty()
		}
		open()
	}
}

func TestDifferentPullsOfTheSameLayers(t *testing.T) {
	l := newLab(t)
	r := newReg(t)
	var base []v1.Layer
	for i := range 5 {
		base = append(base, layerOf(t, file{name: string(rune('a' + i)), body: noise(200000 + i)}))
	}
	var wg sync.WaitGroup
	for i := range 6 {
		ref := r.push("app:"+string(rune('a'+i)), imageOf(t, append(base[:i%3+3:i%3+3], layerOf(t, file{name: "own", body: string(rune('a' + i))}))...))
		wg.Go(func() {
			if _, err := l.Pull(context.Background(), ref, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, b := range base {
		d, _ := b.Digest()
		if n := r.count("GET /v2/app/blobs/" + d.String()); n > 1 {
			t.Errorf("a shared layer was fetched %d times", n)
		}
	}
	l.settled()
	if all := l.index.list(); len(all) != 6 {
		t.Errorf("%d images", len(all))
	}
}

func TestTagThatMovesLeavesTheOldImageByDigest(t *testing.T) {
	l := newLab(t)
	r := newReg(t)
	ref := r.push("app:1", imageOf(t, layerOf(t, file{name: "v", body: "1"})))
	old := l.pull(ref)
	r.push("app:1", imageOf(t, layerOf(t, file{name: "v", body: "2"})))
	now := l.pull(ref)
	if now.ID == old.ID || len(now.RepoTags) != 1 {
		t.Errorf("now %+v", now)
	}
	for range 2 { // also after a restart
		got, err := l.Get(context.Background(), old.ID)
		if err != nil || len(got.RepoTags) != 0 || len(got.RepoDigests) != 1 {
			t.Errorf("old is %+v, %v", got, err)
		}
		l.reopen()
	}
}

func TestTagThatMovesBackLetsGoOfWhatItsOtherImageLeft(t *testing.T) {
	l := newLab(t)
	r := newReg(t)
	old, big := imageOf(t, layerOf(t, file{name: "v", body: "1"})), bigImage(t)
	ref := r.push("app:1", old)
	l.pull(ref)
	r.push("app:1", big)
	blob := layerDigest(t, big)
	r.intercept(func(w http.ResponseWriter, req *http.Request) bool {
		if isBlob(req, blob) {
			_, _ = w.Write(make([]byte, 1000))
			return true
		}
		return false
	})
	if _, err := l.Pull(context.Background(), ref, nil); err == nil || l.leaseCount() != 1 {
		t.Fatalf("%d leases, %v", l.leaseCount(), err)
	}
	r.push("app:1", old)
	l.pull(ref)
	l.settled()
}

func TestNameAndEndOfTheLeaseAreOneCommit(t *testing.T) {
	l := newLab(t)
	ref, _ := simpleImage(t)
	got := l.pull(ref)
	ctx := l.eng.With(context.Background())
	rec, err := l.eng.Images.Get(ctx, ref)
	if err != nil {
		t.Fatal(err)
	}
	p, err := l.storedPlan(ctx, rec.Target)
	if err != nil {
		t.Fatal(err)
	}
	free, err := l.takeLease(ctx, "pull-test")
	if err != nil {
		t.Fatal(err)
	}
	defer free()
	if _, err := l.name(ctx, p, []string{""}, "pull-test"); err == nil || l.leaseCount() != 1 {
		t.Errorf("without a name: %d leases, %v", l.leaseCount(), err)
	}
	if img, err := l.name(ctx, p, []string{ref}, "pull-test"); err != nil || img.ID != got.ID || l.leaseCount() != 0 {
		t.Errorf("named: %d leases, %v", l.leaseCount(), err)
	}
}

func TestPresentImageIsPulledByOneRequest(t *testing.T) {
	l := newLab(t)
	ref, r := simpleImage(t)
	l.pull(ref)
	r.intercept(nil)
	l.pull(ref)
	if n := r.count(""); n != 1 {
		t.Errorf("%d requests", n)
	}
	l.settled()
}

func TestWatchPullsShowsProgress(t *testing.T) {
	l := newLab(t)
	r := newReg(t)
	img := bigImage(t)
	ref := r.push("app:1", img)
	asked, open := r.gate(layerDigest(t, img))
	defer open()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	watch := l.WatchPulls(ctx)
	if first := <-watch; len(first) != 0 {
		t.Errorf("at first %v", first)
	}
	done := make(chan error, 1)
	go func() { _, err := l.Pull(ctx, ref, nil); done <- err }()
	<-asked
	for now := range watch {
		if len(now) == 1 && now[0].Layers == 1 {
			if now[0].Ref != ref || now[0].Total < layerSize(img) || now[0].Done >= layerSize(img) || now[0].StartedAt.IsZero() {
				t.Errorf("progress is %+v", now[0])
			}
			break
		}
	}
	open()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for now := range watch {
		if len(now) == 0 {
			cancel()
		}
	}
}

// The test binary is a daemon when it is told so: it pulls until it is killed.
func TestMain(m *testing.M) {
	if ref := os.Getenv("POUCH_TEST_PULL"); ref != "" {
		pullUntilKilled(ref, os.Getenv("POUCH_TEST_ROOT"), os.Getenv("POUCH_TEST_CERTS"))
	}
	os.Exit(m.Run())
}

func pullUntilKilled(ref, root, certs string) {
	ctx := context.Background()
	e, err := engine.Open(ctx, engine.Options{Root: filepath.Join(root, "lib"), Log: quiet()})
	if err != nil {
		panic(err)
	}
	s, err := Open(ctx, Options{Engine: e, StateDir: filepath.Join(root, "run"), RegistryConfigDir: certs, Log: quiet()})
	if err != nil {
		panic(err)
	}
	if _, err := s.Pull(ctx, ref, nil); err != nil {
		panic(err)
	}
	os.Exit(0)
}

func TestKilledPullIsFinishedByTheNextProcess(t *testing.T) {
	needRoot(t)
	r := newReg(t)
	var layers []v1.Layer
	for i := range 6 {
		var files []file
		for j := range 100 {
			files = append(files, file{name: string(rune('a'+i)) + "/" + strings.Repeat("x", j+1), body: noise(5000 + j)})
		}
		layers = append(layers, layerOf(t, files...))
	}
	img := imageOf(t, layers...)
	ref := r.push("app:1", img)
	killed := 0
	for after := time.Millisecond; after < 3*time.Second; after = after*5/4 + time.Millisecond {
		root := t.TempDir()
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "POUCH_TEST_PULL="+ref, "POUCH_TEST_ROOT="+root, "POUCH_TEST_CERTS="+certs(t))
		seen := make(chan struct{})
		var once sync.Once
		r.intercept(func(http.ResponseWriter, *http.Request) bool {
			once.Do(func() { close(seen) })
			return false
		})
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		<-seen // it has begun; the moments after that are what we want
		time.Sleep(after)
		_ = cmd.Process.Kill()
		err := cmd.Wait()
		if err == nil {
			break // it was done
		}
		killed++
		func() {
			l := &lab{t: t, root: root, opts: Options{StateDir: filepath.Join(root, "run"), RegistryConfigDir: certs(t), Log: quiet()}}
			l.open()
			defer l.close()
			got := l.pull(ref)
			l.settled()
			mnt := l.mounted(got, "c")
			if n := len(names(t, filepath.Join(mnt, "f"))); n != 100 {
				t.Errorf("killed after %v: %d files", after, n)
			}
			if err := errors.Join(l.Rootfs().Remove(context.Background(), "c"), l.Remove(context.Background(), ref)); err != nil {
				t.Error(err)
			}
			l.empty()
		}()
	}
	if killed < 5 {
		t.Errorf("only %d pulls were killed in the middle", killed)
	}
	t.Logf("%d pulls were killed", killed)
}

func TestKilledPullIsForgottenWithoutARetry(t *testing.T) {
	needRoot(t)
	r := newReg(t)
	img := bigImage(t)
	ref := r.push("app:1", img)
	asked, open := r.gate(layerDigest(t, img))
	defer open()
	root := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "POUCH_TEST_PULL="+ref, "POUCH_TEST_ROOT="+root, "POUCH_TEST_CERTS="+certs(t))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-asked
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	l := &lab{t: t, root: root, opts: Options{StateDir: filepath.Join(root, "run"), RegistryConfigDir: certs(t), Log: quiet(), AbandonedPull: 100 * time.Millisecond}}
	l.open()
	defer l.close()
	l.eventuallyEmpty()
}

func TestCloseEndsPulls(t *testing.T) {
	l := newLab(t)
	r := newReg(t)
	img := bigImage(t)
	ref := r.push("app:1", img)
	asked, open := r.gate(layerDigest(t, img))
	defer open()
	done := make(chan error, 1)
	go func() { _, err := l.Pull(context.Background(), ref, nil); done <- err }()
	<-asked
	l.close()
	if err := <-done; !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "going down") {
		t.Errorf("error is %v", err)
	}
}
