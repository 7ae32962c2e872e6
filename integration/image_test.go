package integration

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
	"github.com/cri-pouch/cri-pouch/integration/lab"
)

func TestPullWithTLSAndCredentials(t *testing.T) {
	for name, o := range map[string]lab.RegistryOptions{
		"tls":              {TLS: true},
		"basic":            {User: "jane", Password: "s3cret"},
		"bearer":           {User: "jane", Password: "s3cret", Bearer: true},
		"bearer under tls": {User: "jane", Password: "s3cret", Bearer: true, TLS: true},
	} {
		t.Run(name, func(t *testing.T) {
			n := harness.Prepare(t, harness.WithRegistry(o), harness.WithoutCNI())
			n.StartDaemon(t)
			ctx := harness.Context(t)
			if o.User != "" {
				if _, err := pull(ctx, n, harness.Busybox, nil); err == nil {
					t.Error("pulled without credentials")
				}
				_, err := pull(ctx, n, harness.Busybox, &runtime.AuthConfig{Username: o.User, Password: "wrong"})
				wantError(t, err, harness.Busybox)
				if err != nil && strings.Contains(err.Error(), "wrong") {
					t.Errorf("the error tells the password: %v", err)
				}
			}
			id, err := pull(ctx, n, harness.Busybox, &runtime.AuthConfig{Username: o.User, Password: o.Password})
			if err != nil || !strings.HasPrefix(id, "sha256:") {
				t.Fatalf("%q %v", id, err)
			}
			if log := n.Daemon.LogTail(1 << 20); o.User != "" && strings.Contains(log, o.Password) {
				t.Error("the daemon's log tells the password")
			}
		})
	}
}

func TestPullsThatFail(t *testing.T) {
	n := harness.Prepare(t, harness.WithoutCNI())
	n.StartDaemon(t)
	isBlob := func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/blobs/") }
	for name, x := range map[string]struct {
		ref   string
		fault lab.Fault
		text  string
	}{
		"malformed":  {"images.test/UPPER CASE:1", nil, "UPPER CASE"},
		"empty":      {"", nil, "image"},
		"no such":    {"images.test/absent:1", nil, "images.test/absent:1"},
		"bad digest": {"images.test/busybox@sha256:abc", nil, "sha256:abc"},
		"truncated": {harness.Busybox, func(w http.ResponseWriter, r *http.Request, store http.Handler) bool {
			if !isBlob(r) {
				return false
			}
			rec := httptest.NewRecorder()
			store.ServeHTTP(rec, r)
			w.Header().Set("Content-Length", fmt.Sprint(rec.Body.Len()))
			_, _ = w.Write(rec.Body.Bytes()[:rec.Body.Len()/2])
			panic(http.ErrAbortHandler)
		}, harness.Busybox},
		"wrong content": {harness.Busybox, func(w http.ResponseWriter, r *http.Request, store http.Handler) bool {
			if !isBlob(r) {
				return false
			}
			rec := httptest.NewRecorder()
			store.ServeHTTP(rec, r)
			b := rec.Body.Bytes()
			b[len(b)/2] ^= 1
			w.Header().Set("Content-Length", fmt.Sprint(len(b)))
			_, _ = w.Write(b)
			return true
		}, "something else"},
		"server error": {harness.Busybox, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) bool {
			http.Error(w, "broken", http.StatusInternalServerError)
			return true
		}, harness.Busybox},
	} {
		t.Run(name, func(t *testing.T) {
			n.Images.SetFault(x.fault)
			defer n.Images.SetFault(nil)
			_, err := pull(harness.Context(t), n, x.ref, nil)
			wantError(t, err, x.text)
			if got := listImages(t, n); len(got) != 0 {
				t.Errorf("there is an image now: %v", got)
			}
		})
	}
	t.Run("slow", func(t *testing.T) {
		release := make(chan struct{})
		n.Images.SetFault(func(_ http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			if isBlob(r) {
				select {
				case <-release:
				case <-r.Context().Done():
				}
			}
			return false
		})
		ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
		defer cancel()
		if _, err := pull(ctx, n, harness.Busybox, nil); err == nil {
			t.Error("no error")
		}
		close(release)
		n.Images.SetFault(nil)
	})
	t.Run("and then it works", func(t *testing.T) { n.Pull(t, harness.Busybox) })
	t.Run("registry down", func(t *testing.T) {
		if err := n.Images.Close(); err != nil {
			t.Fatal(err)
		}
		_, err := pull(harness.Context(t), n, harness.Busybox2, nil)
		wantError(t, err, harness.Busybox2)
	})
}

func TestImageOfAnotherPlatform(t *testing.T) {
	n := harness.Prepare(t, harness.WithoutCNI())
	n.StartDaemon(t)
	img, err := lab.BusyboxImage("s390x", func(c *v1.ConfigFile) { c.Architecture = "s390x" })
	if err == nil {
		err = n.Images.Push("foreign:1", img)
	}
	if err != nil {
		t.Fatal(err)
	}
	_, err = pull(harness.Context(t), n, n.Ref("foreign:1"), nil)
	wantError(t, err, n.Ref("foreign:1"), "s390x")
}

func TestFullDisk(t *testing.T) {
	harness.NeedRoot(t)
	root := t.TempDir()
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, "size=24m,mode=0711"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(root, 0); err != nil {
			t.Errorf("unmount the small disk: %v", err)
		}
	})
	n := harness.Start(t, harness.Root(root+"/root"))
	noise := make([]byte, 30<<20)
	_, _ = rand.Read(noise)
	layer, err := lab.Layer(lab.File{Name: "noise", Content: noise})
	if err != nil {
		t.Fatal(err)
	}
	img, err := lab.Image(nil, layer)
	if err == nil {
		err = n.Images.Push("big:1", img)
	}
	if err != nil {
		t.Fatal(err)
	}
	_, err = pull(harness.Context(t), n, n.Ref("big:1"), nil)
	wantError(t, err, n.Ref("big:1"), "no space left on device")
	if got := listImages(t, n); len(got) != 0 {
		t.Errorf("there is an image now: %v", got)
	}
	n.KillDaemon(t)
	n.StartDaemon(t)
	p := n.RunPod(t)
	if got := p.Run(t, "app").Exec(t, "cat", "/version"); got != "one\n" {
		t.Errorf("after the failed pull a container says %q", got)
	}
}
