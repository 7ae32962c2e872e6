package client

import (
	"strings"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func objects() Objects {
	pod := func(id, namespace, name string, created int64) *runtime.PodSandbox {
		return &runtime.PodSandbox{Id: id, Metadata: &runtime.PodSandboxMetadata{Namespace: namespace, Name: name}, CreatedAt: created}
	}
	container := func(id, pod, name string, attempt uint32) *runtime.Container {
		return &runtime.Container{Id: id, PodSandboxId: pod, Metadata: &runtime.ContainerMetadata{Name: name, Attempt: attempt}}
	}
	return Objects{
		Pods: []*runtime.PodSandbox{
			pod("p1aaaa", "prod", "web", 1), pod("p2bbbb", "prod", "db", 2), pod("p3cccc", "test", "web", 3), pod("p4dddd", "prod", "db", 4),
		},
		Containers: []*runtime.Container{
			container("c1aaaa", "p1aaaa", "app", 0), container("c1bbbb", "p1aaaa", "app", 1), container("c2cccc", "p4dddd", "app", 0),
			container("c3dddd", "p1aaaa", "log", 0), container("abc", "p1aaaa", "c3dddd", 0), container("abcdef", "p1aaaa", "x", 0),
			container("e1eeee", "p4dddd", "db", 0), container("f1ffff", "p3cccc", "db", 0), container("g1gggg", "gone12345678901", "lost", 0),
		},
	}
}

func TestFind(t *testing.T) {
	type want struct{ id, err string }
	for name, tc := range map[string]struct {
		pod  bool
		ref  string
		want want
	}{
		"a container by its ID":                    {false, "c1aaaa", want{id: "c1aaaa"}},
		"by a unique beginning":                    {false, "c2", want{id: "c2cccc"}},
		"by its name":                              {false, "log", want{id: "c3dddd"}},
		"the newest attempt of a name in its pod":  {false, "web/app", want{id: "c1bbbb"}},
		"a name that is in two pods":               {false, "app", want{err: `"app" means more than one container: c1bbbb (web/app), c2cccc (db/app); give an ID`}},
		"an ID wins over a name":                   {false, "c3dddd", want{id: "c3dddd"}},
		"a whole ID wins over a longer one's head": {false, "abc", want{id: "abc"}},
		"a beginning of two":                       {false, "c1", want{err: `c1aaaa (web/app), c1bbbb (web/app)`}},
		"nothing":                                  {false, "none", want{err: "no container \"none\", `cri-pouch ps -a` lists all"}},
		"an empty name":                            {false, "", want{err: `no container ""`}},
		"a container whose pod is gone":            {false, "gone12345678/lost", want{id: "g1gggg"}},
		"a pod by namespace and name":              {true, "prod/web", want{id: "p1aaaa"}},
		"the newest attempt of a pod":              {true, "db", want{id: "p4dddd"}},
		"a pod's name in two namespaces":           {true, "web", want{err: `p1aaaa (prod/web), p3cccc (test/web)`}},
	} {
		t.Run(name, func(t *testing.T) {
			var id string
			var err error
			if tc.pod {
				var p *runtime.PodSandbox
				p, err = objects().Pod(tc.ref)
				id = p.GetId()
			} else {
				var c *runtime.Container
				c, err = objects().Container(tc.ref)
				id = c.GetId()
			}
			if id != tc.want.id || (err == nil) != (tc.want.err == "") || err != nil && !strings.Contains(err.Error(), tc.want.err) {
				t.Errorf("got %q, %v; want %+v", id, err, tc.want)
			}
		})
	}
}

func TestFindEither(t *testing.T) {
	o := objects()
	o.Containers = append(o.Containers, &runtime.Container{Id: "h1", PodSandboxId: "p1aaaa", Metadata: &runtime.ContainerMetadata{Name: "solo"}})
	o.Pods = append(o.Pods, &runtime.PodSandbox{Id: "p5", Metadata: &runtime.PodSandboxMetadata{Name: "solo"}})
	for ref, want := range map[string]string{
		"log":  "c3dddd/",
		"p2":   "/p2bbbb",
		"none": `no container or pod "none"`,
		"app":  "more than one container",
		"web":  "more than one pod",
		"solo": `"solo" means container h1 and pod p5`,
	} {
		c, p, err := o.Either(ref)
		got := c.GetId() + "/" + p.GetId()
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, want) {
			t.Errorf("%s: got %s, want %s", ref, got, want)
		}
	}
	// The two of one run.
	own := Objects{
		Pods:       []*runtime.PodSandbox{{Id: "p", Metadata: &runtime.PodSandboxMetadata{Name: "n"}}},
		Containers: []*runtime.Container{{Id: "c", PodSandboxId: "p", Metadata: &runtime.ContainerMetadata{Name: "n"}}},
	}
	if c, p, err := own.Either("n"); c.GetId() != "c" || p.GetId() != "p" || err != nil {
		t.Errorf("one name of both: %v, %v, %v", c, p, err)
	}
}

func TestAmbiguityListsAFew(t *testing.T) {
	var o Objects
	for _, r := range strings.Repeat("x", 30) {
		o.Containers = append(o.Containers, &runtime.Container{Id: "id", PodSandboxId: string(r) + strings.Repeat("y", len(o.Containers)), Metadata: &runtime.ContainerMetadata{Name: "n"}})
	}
	if _, err := o.Container("n"); err == nil || !strings.Contains(err.Error(), "and 22 more") {
		t.Errorf("got %v", err)
	}
}

func TestNames(t *testing.T) {
	for image, want := range map[string]string{
		"docker.io/library/Busybox:1.36": "busybox-", "registry:5000/a_b@sha256:0": "a-b-", "__": "container-",
	} {
		if got := madeUpName(image); !strings.HasPrefix(got, want) || len(got) != len(want)+6 {
			t.Errorf("%s is named %s, want %sXXXXXX", image, got, want)
		}
	}
	if got := hostname("-a_b." + strings.Repeat("c", 80)); got != "a-b."+strings.Repeat("c", 58) {
		t.Errorf("host name %s", got)
	}
	if got := PodLogDir("/logs", "../..", "/etc", "u"); got != "/logs/.._..__etc_u" {
		t.Errorf("log folder %s leaves its root", got)
	}
	for ref, want := range map[string]string{"busybox": "docker.io/library/busybox:latest", "r.example/x:1": "r.example/x:1", "UPPER": "UPPER"} {
		if got := fullReference(ref); got != want {
			t.Errorf("%s in full is %s, want %s", ref, got, want)
		}
	}
}
