package snapshot

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/engine"
)

// needRoot skips a test that mounts or gives files other owners.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: mounts and owners")
	}
}

func quiet() *logrus.Entry {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return logrus.NewEntry(l)
}

// lab is a store on a root of its own.
type lab struct {
	*Store
	t    *testing.T
	root string
	opts Options
}

func newLab(t *testing.T, change ...func(*Options)) *lab {
	t.Helper()
	needRoot(t)
	l := &lab{t: t, root: t.TempDir()}
	l.opts = Options{StateDir: filepath.Join(l.root, "run"), RegistryConfigDir: certs(t), Log: quiet()}
	for _, c := range change {
		c(&l.opts)
	}
	l.open()
	t.Cleanup(func() { l.close() })
	return l
}

func (l *lab) open() {
	l.t.Helper()
	e, err := engine.Open(context.Background(), engine.Options{Root: filepath.Join(l.root, "lib"), Log: quiet(), CollectDelay: time.Millisecond})
	if err != nil {
		l.t.Fatal(err)
	}
	l.opts.Engine = e
	if l.Store, err = Open(context.Background(), l.opts); err != nil {
		l.t.Fatal(errors.Join(err, e.Close()))
	}
	if err := e.StartCollecting(context.Background()); err != nil {
		l.t.Fatal(err)
	}
}

// close closes the store as a daemon that goes down does.
func (l *lab) close() {
	l.t.Helper()
	if l.Store == nil {
		return
	}
	if err := errors.Join(l.Store.Close(), l.opts.Engine.Close()); err != nil {
		l.t.Error(err)
	}
	l.Store = nil
}

func (l *lab) reopen() {
	l.t.Helper()
	l.close()
	l.open()
}

// settled fails the test unless nothing is left but what belongs to the images and containers there are.
func (l *lab) settled() {
	l.t.Helper()
	ctx := l.eng.With(context.Background())
	if err := l.eng.Collect(ctx); err != nil {
		l.t.Fatal(err)
	}
	all, err := l.eng.Leases.List(ctx)
	if err != nil {
		l.t.Fatal(err)
	}
	for _, lease := range all {
		l.t.Errorf("lease %s is left", lease.ID)
	}
	statuses, err := l.eng.Content.ListStatuses(ctx)
	if err != nil {
		l.t.Fatal(err)
	}
	for _, s := range statuses {
		l.t.Errorf("unfinished transfer %s is left", s.Ref)
	}
	entries, err := os.ReadDir(filepath.Join(l.root, "lib", "content", "ingest"))
	if err == nil && len(entries) > 0 {
		ref, _ := os.ReadFile(filepath.Join(l.root, "lib", "content", "ingest", entries[0].Name(), "ref"))
		l.t.Errorf("%d ingest folders are left, one of %q", len(entries), ref)
	}
	l.snapshotsMatch(ctx)
}

// empty fails the test unless the store has nothing at all.
func (l *lab) empty() {
	l.t.Helper()
	l.settled()
	if n := l.blobCount(); n != 0 {
		l.t.Errorf("%d blobs are left", n)
	}
	if n := len(l.snapshotDirs()); n != 0 {
		l.t.Errorf("%d snapshot folders are left", n)
	}
}

func (l *lab) snapshotDirs() []string {
	l.t.Helper()
	entries, err := os.ReadDir(filepath.Join(l.root, "lib", "overlayfs", "snapshots"))
	if err != nil {
		l.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func (l *lab) leaseCount() int {
	l.t.Helper()
	all, err := l.eng.Leases.List(l.eng.With(context.Background()))
	if err != nil {
		l.t.Fatal(err)
	}
	return len(all)
}

func (l *lab) blobCount() (n int) {
	_ = filepath.WalkDir(filepath.Join(l.root, "lib", "content", "blobs"), func(_ string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n++
		}
		return nil
	})
	return n
}

// file is one entry of a test layer.
type file struct {
	name, body, link string
	kind             byte
	mode             int64
	uid, gid         int
	xattrs           map[string]string
	major, minor     int64
}

// tarOf writes entries as they are, however strange.
func tarOf(t *testing.T, files ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Typeflag: f.kind, Mode: f.mode, Uid: f.uid, Gid: f.gid, Linkname: f.link,
			Size: int64(len(f.body)), ModTime: time.Unix(1_600_000_000, 0), Devmajor: f.major, Devminor: f.minor, Format: tar.FormatPAX}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o644
			if h.Typeflag == tar.TypeDir {
				h.Mode = 0o755
			}
		}
		for k, v := range f.xattrs {
			if h.PAXRecords == nil {
				h.PAXRecords = map[string]string{}
			}
			h.PAXRecords["SCHILY.xattr."+k] = v
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func layerOf(t *testing.T, files ...file) v1.Layer {
	t.Helper()
	b := tarOf(t, files...)
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func imageOf(t *testing.T, layers ...v1.Layer) v1.Image {
	t.Helper()
	return imageFor(t, v1.Config{Env: []string{"A=b"}, Cmd: []string{"/bin/true"}}, goruntime.GOARCH, layers...)
}

func imageFor(t *testing.T, cfg v1.Config, arch string, layers ...v1.Layer) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		t.Fatal(err)
	}
	f, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	f = f.DeepCopy()
	f.OS, f.Architecture, f.Config = "linux", arch, cfg
	if img, err = mutate.ConfigFile(img, f); err != nil {
		t.Fatal(err)
	}
	return img
}

// reg is a registry in this process, on loopback and without TLS.
type reg struct {
	*httptest.Server
	t     *testing.T
	store http.Handler

	mu     sync.Mutex
	before func(http.ResponseWriter, *http.Request) bool // answers in the registry's place and says so
	served []string
}

func newReg(t *testing.T) *reg {
	t.Helper()
	r := &reg{t: t, store: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	writeHosts(t, r.host(), "server = %q\n", r.URL)
	return r
}

// certs is the registry configuration of a test: the folder is the same for its store and its registries.
func certs(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("pouch-certs-%d", os.Getpid()), strings.ReplaceAll(t.Name(), "/", "_"))
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = os.RemoveAll(dir)
		_ = os.Remove(filepath.Dir(dir)) // the last one
	})
	return dir
}

// writeHosts writes the hosts.toml of a registry.
func writeHosts(t *testing.T, host, format string, args ...any) {
	t.Helper()
	dir := filepath.Join(certs(t), host)
	if i := strings.LastIndexByte(host, ':'); i >= 0 {
		dir = filepath.Join(certs(t), host[:i]+"_"+host[i+1:]+"_")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), fmt.Appendf(nil, format, args...), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (r *reg) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	before := r.before
	r.served = append(r.served, req.Method+" "+req.URL.Path+" "+req.Header.Get("Range"))
	r.mu.Unlock()
	if before != nil && before(w, req) {
		return
	}
	r.store.ServeHTTP(w, req)
}

// intercept makes f see each request first.
func (r *reg) intercept(f func(http.ResponseWriter, *http.Request) bool) {
	r.mu.Lock()
	r.before, r.served = f, nil
	r.mu.Unlock()
}

// count gives how many requests began with prefix.
func (r *reg) count(prefix string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.served {
		if strings.HasPrefix(s, prefix) {
			n++
		}
	}
	return n
}

func (r *reg) host() string { return strings.TrimPrefix(r.URL, "http://") }

// inside carries pushes past intercepts.
type inside struct{ h http.Handler }

func (i inside) RoundTrip(req *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	in := req.Clone(req.Context())
	if in.Body == nil {
		in.Body = http.NoBody
	}
	i.h.ServeHTTP(w, in)
	res := w.Result()
	res.Request = req
	return res, nil
}

// push stores an image and gives the reference that it is pulled by.
func (r *reg) push(repo string, img v1.Image) string {
	r.t.Helper()
	ref := r.ref(repo)
	if err := remote.Write(ref, img, remote.WithTransport(inside{r.store})); err != nil {
		r.t.Fatal(err)
	}
	return ref.String()
}

func (r *reg) pushIndex(repo string, idx v1.ImageIndex) string {
	r.t.Helper()
	ref := r.ref(repo)
	if err := remote.WriteIndex(ref, idx, remote.WithTransport(inside{r.store})); err != nil {
		r.t.Fatal(err)
	}
	return ref.String()
}

func (r *reg) ref(repo string) name.Reference {
	r.t.Helper()
	ref, err := name.ParseReference(r.host()+"/"+repo, name.Insecure)
	if err != nil {
		r.t.Fatal(err)
	}
	return ref
}

// mounted makes a container on the image and gives its mounted root; it is taken away at the end of the test.
func (l *lab) mounted(img Image, id string) string {
	l.t.Helper()
	ctx := context.Background()
	if err := l.Rootfs().Create(ctx, NewRootfs{ID: id, ImageID: img.ID, Manifest: img.Manifest, ChainID: img.ChainID, Record: []byte("{}")}); err != nil {
		l.t.Fatal(err)
	}
	path, err := l.Rootfs().Mount(ctx, id)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			l.t.Error(err)
		}
	})
	return path
}

func (l *lab) pull(ref string) Image {
	l.t.Helper()
	img, err := l.Pull(context.Background(), ref, nil)
	if err != nil {
		l.t.Fatal(err)
	}
	return img
}

func asJSON(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func stat(t *testing.T, path string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return st
}

// snapshotsMatch fails the test unless each folder of the snapshotter belongs to a snapshot that the metadata knows.
func (l *lab) snapshotsMatch(ctx context.Context) {
	l.t.Helper()
	known := map[string]bool{}
	if err := l.eng.Snapshots.Walk(ctx, func(_ context.Context, i snapshots.Info) error {
		if strings.HasPrefix(i.Name, "extract-") {
			l.t.Errorf("unfinished snapshot %s is left", i.Name)
		}
		known[filepath.Base(filepath.Dir(i.Labels["containerd.io/snapshot/overlay.upperdir"]))] = true
		return nil
	}); err != nil {
		l.t.Fatal(err)
	}
	for _, dir := range l.snapshotDirs() {
		if !known[dir] {
			l.t.Errorf("snapshot folder %s belongs to nothing", dir)
		}
	}
}

func emptyIndex() v1.ImageIndex { return empty.Index }

// dockerWith is a docker archive whose image has that name, however malformed.
func dockerWith(t *testing.T, img v1.Image, tag string) []byte {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	rc, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	layer, err := io.ReadAll(rc)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	list := []map[string]any{{"Config": "c.json", "RepoTags": []string{tag}, "Layers": []string{"l.tar"}}}
	return tarOf(t, file{name: "c.json", body: string(config)}, file{name: "l.tar", body: string(layer)}, file{name: "manifest.json", body: string(asJSON(t, list))})
}
