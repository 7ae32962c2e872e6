package snapshot

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func dockerArchive(t *testing.T, img v1.Image, tags ...string) []byte {
	t.Helper()
	refs := map[name.Tag]v1.Image{}
	for _, s := range tags {
		tag, err := name.NewTag(s)
		if err != nil {
			t.Fatal(err)
		}
		refs[tag] = img
	}
	var b bytes.Buffer
	if err := tarball.MultiWrite(refs, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func ociArchive(t *testing.T, ann map[string]string, imgs ...v1.Image) []byte {
	t.Helper()
	dir := t.TempDir()
	p, err := layout.Write(dir, emptyIndex())
	if err != nil {
		t.Fatal(err)
	}
	for _, img := range imgs {
		if err := p.AppendImage(img, layout.WithAnnotations(ann)); err != nil {
			t.Fatal(err)
		}
	}
	return tarDir(t, dir)
}

func tarDir(t *testing.T, dir string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestImport(t *testing.T) {
	img := imageOf(t, layerOf(t, file{name: "a", body: "1"}), layerOf(t, file{name: "b/c", body: "2"}))
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write(dockerArchive(t, img, "app:1"))
	_ = z.Close()
	for _, c := range []struct {
		name string
		tar  []byte
		tags string
	}{
		{"docker", dockerArchive(t, img, "app:1"), "[docker.io/library/app:1]"},
		{"docker with two names", dockerArchive(t, img, "app:1", "r.example/x:2"), "[docker.io/library/app:1 r.example/x:2]"},
		{"docker packed", zipped.Bytes(), "[docker.io/library/app:1]"},
		{"oci with a name", ociArchive(t, map[string]string{"io.containerd.image.name": "r.example/x:2"}, img), "[r.example/x:2]"},
		{"oci with a full ref name", ociArchive(t, map[string]string{"org.opencontainers.image.ref.name": "r.example/x:3"}, img), "[r.example/x:3]"},
		{"oci with a bare tag", ociArchive(t, map[string]string{"org.opencontainers.image.ref.name": "latest"}, img), "[]"},
		{"oci with a foreign one", ociArchive(t, map[string]string{"io.containerd.image.name": "r.example/x:2"}, imageFor(t, v1.Config{}, "s390x"), img), "[r.example/x:2]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			got, err := l.Import(context.Background(), bytes.NewReader(c.tar))
			if err != nil {
				t.Fatal(err)
			}
			last := got[len(got)-1]
			if fmt.Sprint(last.RepoTags) != c.tags || last.Size == 0 {
				t.Errorf("image is %+v", last)
			}
			l.settled()
			l.reopen()
			if again, err := l.Get(context.Background(), last.ID); err != nil || fmt.Sprint(again.RepoTags) != c.tags {
				t.Errorf("after a restart: %+v, %v", again, err)
			}
			root := l.mounted(last, "c")
			if read(t, filepath.Join(root, "a")) != "1" || read(t, filepath.Join(root, "b/c")) != "2" {
				t.Error("files are wrong")
			}
			if err := l.Rootfs().Remove(context.Background(), "c"); err != nil {
				t.Error(err)
			}
			if err := l.Remove(context.Background(), last.ID); err != nil {
				t.Error(err)
			}
			l.empty()
		})
	}
}

func TestImportOfDockersSymlinkedLayers(t *testing.T) {
	l := newLab(t)
	layer := tarOf(t, file{name: "a", body: "1"})
	d, _, err := v1.SHA256(bytes.NewReader(layer))
	if err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(`{"os":"linux","architecture":%q,"rootfs":{"type":"layers","diff_ids":[%q,%q]},"config":{}}`, platform(), d, d)
	b := tarOf(t, file{name: "one/layer.tar", body: string(layer)}, file{name: "two/layer.tar", kind: tar.TypeSymlink, link: "../one/layer.tar"},
		file{name: "c.json", body: config}, file{name: "manifest.json", body: `[{"Config":"c.json","RepoTags":["app:1"],"Layers":["one/layer.tar","two/layer.tar"]}]`})
	got, err := l.Import(context.Background(), bytes.NewReader(b))
	if err != nil || len(got) != 1 {
		t.Fatal(got, err)
	}
	l.settled()
}

func TestBadArchivesAreRefusedAndLeaveNothing(t *testing.T) {
	img := imageOf(t, layerOf(t, file{name: "a", body: "1"}))
	good := ociArchive(t, nil, img)
	manifest := func(s string) []byte { return tarOf(t, file{name: "manifest.json", body: s}) }
	for name, c := range map[string]struct {
		tar   io.Reader
		class func(error) bool
	}{
		"empty":              {bytes.NewReader(nil), errdefs.IsInvalidArgument},
		"no tar":             {strings.NewReader(strings.Repeat("no tar ", 1000)), errdefs.IsDataLoss},
		"truncated":          {bytes.NewReader(good[:len(good)/2]), errdefs.IsDataLoss},
		"truncated gzip":     {bytes.NewReader([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0}), errdefs.IsDataLoss},
		"other files":        {bytes.NewReader(tarOf(t, file{name: "x", body: "x"})), errdefs.IsInvalidArgument},
		"manifest no json":   {bytes.NewReader(manifest("{")), errdefs.IsInvalidArgument},
		"no images":          {bytes.NewReader(manifest("[]")), errdefs.IsInvalidArgument},
		"missing config":     {bytes.NewReader(manifest(`[{"Config":"c.json"}]`)), errdefs.IsInvalidArgument},
		"bad name":           {bytes.NewReader(dockerWith(t, img, "UP:PER:x")), errdefs.IsInvalidArgument},
		"big manifest":       {bytes.NewReader(manifest(strings.Repeat(" ", maxDocument+1))), errdefs.IsInvalidArgument},
		"other platform":     {bytes.NewReader(ociArchive(t, nil, imageFor(t, v1.Config{}, "s390x"))), errdefs.IsNotFound},
		"blob of other name": {bytes.NewReader(tarOf(t, file{name: "blobs/sha256/" + strings.Repeat("a", 64), body: "x"})), errdefs.IsDataLoss},
		"missing blobs":      {bytes.NewReader(tarOf(t, file{name: "oci-layout", body: `{"imageLayoutVersion":"1.0.0"}`}, file{name: "index.json", body: `{"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:` + strings.Repeat("a", 64) + `","size":3}]}`})), errdefs.IsInvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			if got, err := l.Import(context.Background(), c.tar); err == nil || !c.class(err) {
				t.Errorf("%v, %v", got, err)
			}
			l.empty()
		})
	}
}

func TestImportThatIsCancelledLeavesNothing(t *testing.T) {
	l := newLab(t)
	ctx, cancel := context.WithCancel(context.Background())
	good := dockerArchive(t, bigImage(t), "app:1")
	r := io.MultiReader(bytes.NewReader(good[:1<<20]), readerFunc(func([]byte) (int, error) {
		cancel()
		return 0, ctx.Err()
	}))
	if _, err := l.Import(ctx, r); err == nil {
		t.Error("imported")
	}
	l.empty()
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
