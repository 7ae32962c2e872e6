package cri

import (
	"testing"
	"time"

	"github.com/cri-pouch/cri-pouch/cri/model"
	"github.com/cri-pouch/cri-pouch/snapshot"
)

func TestTheTerminationLogsRandomPathDoesNotMakeAnotherRequest(t *testing.T) {
	cfg := func(host, path string, annotations map[string]string) model.ContainerConfig {
		return model.ContainerConfig{Name: "c", Annotations: annotations, Mounts: []model.Mount{
			{ContainerPath: "/data", HostPath: "/data"}, {ContainerPath: path, HostPath: host},
		}}
	}
	own := map[string]string{terminationPathAnnotation: "/tmp/end"}
	for _, tc := range []struct {
		name string
		a, b string
		same bool
	}{
		{"default path", containerDigest("s", cfg("/x/1", "/dev/termination-log", nil)), containerDigest("s", cfg("/x/2", "/dev/termination-log", nil)), true},
		{"path of the annotation", containerDigest("s", cfg("/x/1", "/tmp/end", own)), containerDigest("s", cfg("/x/2", "/tmp/end", own)), true},
		{"another mount", containerDigest("s", cfg("/x/1", "/etc/x", nil)), containerDigest("s", cfg("/x/2", "/etc/x", nil)), false},
		{"another sandbox", containerDigest("s", cfg("/x/1", "/etc/x", nil)), containerDigest("t", cfg("/x/1", "/etc/x", nil)), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := tc.a == tc.b; got != tc.same {
				t.Errorf("the same request: %v, want %v", got, tc.same)
			}
		})
	}
}

func TestCreationTimesAreDistinctAndGrow(t *testing.T) {
	var clock ticker
	future := time.Now().Add(time.Hour)
	clock.seen(future)
	last := future
	for range 1000 {
		now := clock.now()
		if !now.After(last) {
			t.Fatalf("%v does not come after %v", now, last)
		}
		last = now
	}
}

func TestTheImageRefIsOfTheRepositoryThatThePodNamed(t *testing.T) {
	img := snapshot.Image{ID: "sha256:1", RepoDigests: []string{"docker.io/library/a@sha256:2", "example.com/b@sha256:2"}}
	for _, tc := range []struct{ asked, want string }{
		{"a:1", "docker.io/library/a@sha256:2"},
		{"example.com/b:latest", "example.com/b@sha256:2"},
		{"example.com/c:1", "docker.io/library/a@sha256:2"},
		{"sha256:1", "docker.io/library/a@sha256:2"},
	} {
		if got := imageRef(img, tc.asked); got != tc.want {
			t.Errorf("asked for %s: %s, want %s", tc.asked, got, tc.want)
		}
	}
	if got := imageRef(snapshot.Image{ID: "sha256:1"}, "a"); got != "sha256:1" {
		t.Errorf("an imported image: %s", got)
	}
}

func TestIDsAreFoundByUniquePrefix(t *testing.T) {
	x := newIndex()
	for _, id := range []string{"abc1", "abd2"} {
		sb := newSandbox(model.Sandbox{ID: id})
		sb.listed.Store(id == "abc1")
		x.addSandbox(sb)
	}
	for id, ok := range map[string]bool{"abc1": true, "ab": true, "abd2": true, "abd": false, "x": false, "": false} {
		if _, err := x.sandbox(id); (err == nil) != ok {
			t.Errorf("%q: found %v, want %v (%v)", id, err == nil, ok, err)
		}
	}
}

func TestTheStatusShowsTheImageThatWasAskedForWithItsTag(t *testing.T) {
	img := snapshot.Image{ID: "sha256:0123456789abcdef"}
	for asked, want := range map[string]string{
		"busybox":                    "busybox:latest",
		"example.com:5000/a/b":       "example.com:5000/a/b:latest",
		"busybox:1":                  "busybox:1",
		"sha256:0123456789abcdef":    "sha256:0123456789abcdef",
		"0123456789ab":               "0123456789ab",
		"a@sha256:" + sixtyFourHex:   "a@sha256:" + sixtyFourHex,
		"a:1@sha256:" + sixtyFourHex: "a:1@sha256:" + sixtyFourHex,
	} {
		if got := tagged(img, asked); got != want {
			t.Errorf("asked for %s: %s, want %s", asked, got, want)
		}
	}
}

const sixtyFourHex = "9700f9a2f5bf2c45f2f605a0bd3bce7cf37420ec9d3ed50ac2758413308766bf"
