package snapshot

import (
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestEscapedPaths(t *testing.T) {
	seen := map[string]string{}
	for _, p := range []string{
		"/data", "/srv/data", "/srv%2Fdata", "/srv%2fdata", "/.hidden", "/%2Ehidden", "/a b", "/ü", "/a\xff", "/a%new", "/a%gone", "/x%", "/record.json",
		"/" + strings.Repeat("a", 200), "/" + strings.Repeat("a", 199) + "b", "/" + strings.Repeat("a/", 1000) + "b", "/" + strings.Repeat("a/", 1000) + "c",
	} {
		name := escapePath(p)
		if other, ok := seen[name]; ok {
			t.Errorf("%.50q and %.50q are both %s", p, other, name)
		}
		seen[name] = p
		if len(name)+len(newSuffix) > 255 || strings.ContainsAny(name, "/\x00") || strings.HasPrefix(name, ".") || name == "" {
			t.Errorf("%.50q becomes %q, which is no folder's name", p, name)
		}
		if isTemporary(name) {
			t.Errorf("%.50q becomes %q, which looks unfinished", p, name)
		}
		if back, plain := unescapePath(name); plain && back != p {
			t.Errorf("%.50q becomes %q and then %.50q", p, name, back)
		} else if !plain && len(p) < 100 {
			t.Errorf("%q cannot be told from %q", p, name)
		}
	}
}

func FuzzEscapedPath(f *testing.F) {
	f.Add("/data")
	f.Add("/a%2Fb/../c")
	f.Fuzz(func(t *testing.T, p string) {
		p = "/" + p
		if back, plain := unescapePath(escapePath(p)); plain && back != p {
			t.Errorf("%q comes back as %q", p, back)
		}
	})
}

func TestPathsAreFollowedInsideTheRoot(t *testing.T) {
	l := newVolumeLab(t)
	l.write("etc/passwd", "image")
	l.write("data/file", "")
	for name, target := range map[string]string{
		"up": "../../../../etc", "absolute": "/data", "relative": "data", "chain": "absolute", "dangling": "/nowhere/at/all", "deep/dangling": "missing",
		"host": "/../../../../../../../../root", "loop": "loop2", "loop2": "loop", "dangle1": "dangle2", "dangle2": "/gone", "magic": "/proc/self/root",
		"tofile": "/etc/passwd", "here": ".", "endless": "endless/x",
	} {
		l.link(target, name)
	}
	for _, test := range []struct {
		path, want string
		kind       PlaceKind
	}{
		{"/data", "/data", PlaceFolder},
		{"/data/missing", "/data/missing", PlaceMissing},
		{"/missing/below/it", "/missing/below/it", PlaceMissing},
		{"/up", "/etc", PlaceFolder},
		{"/up/app", "/etc/app", PlaceMissing},
		{"/absolute", "/data", PlaceFolder},
		{"/relative", "/data", PlaceFolder},
		{"/chain/x", "/data/x", PlaceMissing},
		{"/dangling", "/nowhere/at/all", PlaceMissing},
		{"/dangling/more", "/nowhere/at/all/more", PlaceMissing},
		{"/deep/dangling/x", "/deep/missing/x", PlaceMissing},
		{"/dangle1", "/gone", PlaceMissing},
		{"/host", "/root", PlaceMissing},
		{"/magic/x", "/proc/self/root/x", PlaceMissing},
		{"/etc/passwd", "/etc/passwd", PlaceOther},
		{"/tofile", "/etc/passwd", PlaceOther},
		{"/etc/passwd/below", "/etc/passwd/below", PlaceOther},
		{"/etc/passwd/below/it", "/etc/passwd/below/it", PlaceOther},
		{"/here", "/", PlaceFolder},
		{"/here/data", "/data", PlaceFolder},
		{"/../../../..", "/", PlaceFolder},
	} {
		got, err := l.Resolve(l.root, test.path)
		if err != nil || got.Path != test.want || got.Kind != test.kind {
			t.Errorf("%s leads to %+v, %v; want %s, %d", test.path, got, err, test.want, test.kind)
		}
	}
	for _, p := range []string{"/loop", "/loop/x", "/endless", "/a/" + strings.Repeat("n", 256)} {
		if got, err := l.Resolve(l.root, p); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %+v, %v", p, got, err)
		}
	}
	if entries, err := os.ReadDir("/proc/self/fd"); err != nil || len(entries) > 200 {
		t.Errorf("%d descriptors are open: %v", len(entries), err)
	}
}
