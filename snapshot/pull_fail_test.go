package snapshot

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"
)

// bigImage has one layer of some megabytes that does not compress.
func bigImage(t *testing.T) v1.Image {
	t.Helper()
	return imageOf(t, layerOf(t, file{name: "big", body: noise(4 << 20)}))
}

func noise(n int) string {
	b := make([]byte, n)
	x := uint64(88172645463325252)
	for i := range b {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x)
	}
	return string(b)
}

func layerDigest(t *testing.T, img v1.Image) string {
	t.Helper()
	ls, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	d, err := ls[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

// isBlob says whether a request fetches the blob.
func isBlob(req *http.Request, digest string) bool {
	return req.Method == http.MethodGet && strings.HasSuffix(req.URL.Path, "/blobs/"+digest)
}

func TestPullFailsClearly(t *testing.T) {
	big := bigImage(t)
	blob := layerDigest(t, big)
	other := "arm64"
	foreign := imageFor(t, v1.Config{}, other)
	status := func(code int) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(code)
			return true
		}
	}
	for _, c := range []struct {
		name   string
		img    v1.Image
		fault  func(http.ResponseWriter, *http.Request) bool
		class  func(error) bool
		prefix bool // RegistryUnavailable
		says   string
	}{
		{"wrong platform", foreign, nil, errdefs.IsNotFound, false, "linux/arm64"},
		{"not found", big, status(404), errdefs.IsNotFound, false, "no such image"},
		{"forbidden", big, status(403), errdefs.IsPermissionDenied, false, "pull secret"},
		{"registry is broken", big, status(503), errdefs.IsUnavailable, true, "503"},
		{"too many requests", big, status(429), errdefs.IsUnavailable, true, "429"},
		{"wrong digest", big, func(w http.ResponseWriter, r *http.Request) bool {
			if !isBlob(r, blob) {
				return false
			}
			body := noise(5 << 20)[9:]
			_, _ = w.Write([]byte(body)[:layerSize(big)])
			return true
		}, errdefs.IsDataLoss, false, "something else than layer " + blob},
		{"too much data", big, func(w http.ResponseWriter, r *http.Request) bool {
			if !isBlob(r, blob) {
				return false
			}
			_, _ = w.Write(make([]byte, layerSize(big)+100))
			return true
		}, errdefs.IsDataLoss, false, blob},
		{"truncated data", big, func(w http.ResponseWriter, r *http.Request) bool {
			if !isBlob(r, blob) {
				return false
			}
			_, _ = w.Write(make([]byte, 1000))
			return true
		}, errdefs.IsDataLoss, false, "only a part of layer " + blob},
		{"wrong manifest", big, func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/manifests/") {
				return false
			}
			_, _ = w.Write([]byte(`{"schemaVersion":2}`))
			return true
		}, errdefs.IsDataLoss, false, "something else than document"},
		{"no image", mutate.ConfigMediaType(empty.Image, "application/vnd.example.chart"), nil, errdefs.IsInvalidArgument, false, "artifact"},
		{"no tar", appended(t, static.NewLayer([]byte("no tar at all, but long enough to have a block of its own"), types.DockerUncompressedLayer)), nil, errdefs.IsDataLoss, false, "damaged"},
		{"unknown layer type", appended(t, static.NewLayer([]byte("x"), "application/vnd.oci.image.layer.v1.tar+encrypted")), nil, errdefs.IsNotImplemented, false, "encrypted"},
		{"user beyond 32 bits", imageFor(t, v1.Config{User: "4294967296"}, platform()), nil, errdefs.IsInvalidArgument, false, "4294967296"},
		{"group beyond 31 bits", imageFor(t, v1.Config{User: "1:2147483648"}, platform()), nil, errdefs.IsInvalidArgument, false, "2147483648"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t, func(o *Options) { o.AbandonedPull = time.Hour })
			r := newReg(t)
			ref := r.push("app:1", c.img)
			r.intercept(c.fault)
			_, err := l.Pull(context.Background(), ref, nil)
			if err == nil || !c.class(err) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), ref) {
				t.Errorf("error is %v", err)
			}
			if err != nil && strings.HasPrefix(err.Error(), "RegistryUnavailable") != c.prefix {
				t.Errorf("prefix is wrong: %v", err)
			}
			if kept := l.leaseCount(); c.name == "truncated data" && kept != 1 {
				t.Errorf("%d leases keep what was fetched", kept)
			} else if c.name != "truncated data" {
				l.empty()
			}
			if c.fault == nil {
				return
			}
			r.intercept(nil)
			l.pull(ref) // nothing of the failure is in the way
			l.settled()
		})
	}
}

// eventuallyEmpty waits until what a failed pull fetched has been let go.
func (l *lab) eventuallyEmpty() {
	l.t.Helper()
	for end := time.Now().Add(time.Minute); l.leaseCount() > 0 && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
	l.empty()
}

func layerSize(img v1.Image) int64 {
	ls, _ := img.Layers()
	n, _ := ls[0].Size()
	return n
}

func platform() string { return goruntime.GOARCH }

func appended(t *testing.T, l v1.Layer) v1.Image {
	t.Helper()
	return imageOf(t, l)
}

func TestMalformedReferencesAreRefused(t *testing.T) {
	l := newLab(t)
	for _, ref := range []string{"", " ", "docker.io/UPPER/case", "a b", "-x", "a:b:c", "repo@sha256:12", "http://x/y", "x/../y", strings.Repeat("a", 5000), "repo:" + strings.Repeat("t", 200)} {
		if _, err := l.Pull(context.Background(), ref, nil); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Pull(%.50q): %v", ref, err)
		}
		if _, err := l.Get(context.Background(), ref); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Get(%.50q): %v", ref, err)
		}
	}
	l.empty()
}

func TestRegistryThatIsNotThere(t *testing.T) {
	l := newLab(t)
	c, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := c.Addr().String()
	_ = c.Close()
	for _, ref := range []string{addr + "/app:1", "no-such-host.invalid/app:1"} {
		_, err := l.Pull(context.Background(), ref, nil)
		if !errdefs.IsUnavailable(err) || !strings.HasPrefix(err.Error(), "RegistryUnavailable: ") || !strings.Contains(err.Error(), ref) {
			t.Errorf("%s: %v", ref, err)
		}
	}
	l.empty()
}

func TestSlowRegistryIsGivenUp(t *testing.T) {
	img := bigImage(t)
	blob := layerDigest(t, img)
	for _, where := range []string{"headers", "in the middle", "resolve"} {
		t.Run(where, func(t *testing.T) {
			l := newLab(t, func(o *Options) { o.PullProgressTimeout = 200 * time.Millisecond; o.AbandonedPull = time.Hour })
			r := newReg(t)
			ref := r.push("app:1", img)
			stop := make(chan struct{})
			r.intercept(func(w http.ResponseWriter, req *http.Request) bool {
				if where == "resolve" || isBlob(req, blob) {
					if where == "in the middle" {
						w.Header().Set("Content-Length", strconv.FormatInt(layerSize(img), 10))
						_, _ = w.Write(make([]byte, 1000))
						w.(http.Flusher).Flush()
					}
					<-stop
					return true
				}
				return false
			})
			_, err := l.Pull(context.Background(), ref, nil)
			close(stop)
			if !errdefs.IsUnavailable(err) || !strings.HasPrefix(err.Error(), "RegistryUnavailable: ") || !strings.Contains(err.Error(), "no data for too long (200ms)") {
				t.Errorf("error is %v", err)
			}
		})
	}
}

func TestSteadyButSlowRegistryIsNotGivenUp(t *testing.T) {
	img := bigImage(t)
	blob := layerDigest(t, img)
	l := newLab(t, func(o *Options) { o.PullProgressTimeout = 3 * time.Second })
	r := newReg(t)
	ref := r.push("app:1", img)
	raw := blobBytes(t, img)
	r.intercept(func(w http.ResponseWriter, req *http.Request) bool {
		if !isBlob(req, blob) {
			return false
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(raw)))
		for part := range 10 { // four seconds in all
			_, _ = w.Write(raw[part*len(raw)/10 : (part+1)*len(raw)/10])
			w.(http.Flusher).Flush()
			time.Sleep(400 * time.Millisecond)
		}
		return true
	})
	l.pull(ref)
	l.settled()
}

func TestTruncatedTransferGoesOnByRange(t *testing.T) {
	img := bigImage(t)
	blob := layerDigest(t, img)
	raw := blobBytes(t, img)
	l := newLab(t, func(o *Options) { o.AbandonedPull = time.Hour })
	r := newReg(t)
	ref := r.push("app:1", img)
	half := len(raw) / 2
	r.intercept(func(w http.ResponseWriter, req *http.Request) bool {
		if !isBlob(req, blob) {
			return false
		}
		_, _ = w.Write(raw[:half])
		return true
	})
	if _, err := l.Pull(context.Background(), ref, nil); !errdefs.IsDataLoss(err) {
		t.Fatal(err)
	}
	l.reopen() // another process finds it
	r.intercept(func(w http.ResponseWriter, req *http.Request) bool {
		if !isBlob(req, blob) {
			return false
		}
		if req.Header.Get("Range") != fmt.Sprintf("bytes=%d-", half) {
			t.Errorf("asked for range %q", req.Header.Get("Range"))
		}
		http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(raw))
		return true
	})
	l.pull(ref)
	l.settled()
}

func TestDamagedPartialTransferBeginsAnew(t *testing.T) {
	img := bigImage(t)
	blob := layerDigest(t, img)
	l := newLab(t, func(o *Options) { o.AbandonedPull = time.Hour })
	r := newReg(t)
	ref := r.push("app:1", img)
	r.intercept(func(w http.ResponseWriter, req *http.Request) bool {
		if !isBlob(req, blob) {
			return false
		}
		_, _ = w.Write(make([]byte, 1<<20)) // zeros, as after a power cut
		return true
	})
	if _, err := l.Pull(context.Background(), ref, nil); err == nil {
		t.Fatal("pulled")
	}
	r.intercept(nil)
	l.pull(ref)
	l.settled()
}

func blobBytes(t *testing.T, img v1.Image) []byte {
	t.Helper()
	ls, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	rc, err := ls[0].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	b := make([]byte, 0, layerSize(img))
	for {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		n, err := rc.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if err != nil {
			return b
		}
	}
}

func TestFullDisk(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=6m"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	for name, size := range map[string]int{"unpacking": 3 << 20, "fetching": 8 << 20} {
		t.Run(name, func(t *testing.T) {
			l := &lab{t: t, root: dir, opts: Options{StateDir: filepath.Join(dir, "run"), RegistryConfigDir: certs(t), Log: quiet(), AbandonedPull: time.Hour}}
			l.open()
			defer l.close()
			r := newReg(t)
			cut := bigImage(t)
			blob, part := layerDigest(t, cut), blobBytes(t, cut)[:1<<20]
			r.intercept(func(w http.ResponseWriter, req *http.Request) bool {
				if isBlob(req, blob) {
					_, _ = w.Write(part)
					return true
				}
				return false
			})
			if _, err := l.Pull(context.Background(), r.push("cut:1", cut), nil); !errdefs.IsDataLoss(err) || l.leaseCount() != 1 {
				t.Fatalf("%d leases, %v", l.leaseCount(), err)
			}
			ref := r.push("app:1", imageOf(t, layerOf(t, file{name: "big", body: noise(size)})))
			_, err := l.Pull(context.Background(), ref, nil)
			if !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "full") || !strings.Contains(err.Error(), name[:len(name)-3]) {
				t.Errorf("error is %v", err)
			}
			// There is room again, without a wait: also what the other pull had kept is gone.
			var st unix.Statfs_t
			if err := unix.Statfs(dir, &st); err != nil || int64(st.Bavail)*st.Bsize < 4<<20 {
				t.Errorf("%d bytes are free, %v", int64(st.Bavail)*st.Bsize, err)
			}
			l.empty()
			small := r.push("small:1", imageOf(t, layerOf(t, file{name: "a", body: "a"})))
			l.pull(small)
			if err := l.Remove(context.Background(), small); err != nil {
				t.Error(err)
			}
			l.empty()
		})
	}
}

func TestPullLeavesNoDescriptorOpen(t *testing.T) {
	l := newLab(t)
	ref, r := simpleImage(t)
	l.pull(ref)
	if err := l.Remove(context.Background(), ref); err != nil {
		t.Fatal(err)
	}
	r.CloseClientConnections()
	before := openFiles(t, l.root)
	for range 3 {
		l.pull(ref)
		if err := l.Remove(context.Background(), ref); err != nil {
			t.Fatal(err)
		}
	}
	if after := openFiles(t, l.root); after > before {
		t.Errorf("%d files of the store are open, before %d", after, before)
	}
}

func openFiles(t *testing.T, below string) (n int) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.HasPrefix(target, below) {
			n++
		}
	}
	return n
}
