package integration

import (
	"fmt"
	"os"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
	"github.com/cri-pouch/cri-pouch/integration/lab"
)

// Whatever stands in an annotation, it is refused before anything is made, with the annotation's name and the place in it.
func TestAHookThatIsNoneIsRefusedWithItsPlace(t *testing.T) {
	n := harness.Start(t, harness.Config("[hooks]\nmax_timeout = \"20s\"\n"))
	n.Pull(t, harness.Busybox)
	for name, test := range map[string]struct {
		key, text string
		want      []string
	}{
		"malformed JSON":           {prestartKey, "[\n {name}]", []string{"line 2, column 3", "hook 1", "no JSON"}},
		"an unknown field":         {poststopKey, `[{"name": "a", "exec": ["x"], "path": "/etc"}]`, []string{"line 1, column 31", `field "path" is unknown`}},
		"empty argv":               {prestartKey + ".app", `[{"name": "a", "exec": []}]`, []string{"line 1, column 24", "field exec"}},
		"a negative timeout":       {prestartKey, `[{"name": "a", "exec": ["x"], "timeout": "-1s"}]`, []string{"line 1, column 42", "field timeout"}},
		"above node's limit":       {prestartKey, `[{"name": "a", "exec": ["x"], "timeout": "21s"}]`, []string{"hooks.max_timeout, 20s"}},
		"too much in all":          {poststopKey, "[" + strings.TrimSuffix(strings.Repeat(`{"name": "NAME", "exec": ["x"]},`, 4), ",") + "]", []string{"1m20s", "1m0s in all"}},
		"1 MiB":                    {prestartKey, strings.Repeat(" ", 1<<20) + "[]", []string{"line 1, column 65537"}},
		"a misspelt stage":         {"hooks.cri-pouch.io/prestop", "[]", []string{"is unknown"}},
		"a stage of an init":       {"hooks.cri-pouch.io/poststop.", "[]", []string{"is unknown"}},
		"a user the image has not": {prestartKey, `[{"name": "a", "exec": ["x"], "user": "nobody-here"}]`, []string{`hook "a"`, "field user", "/etc/passwd"}},
	} {
		t.Run(name, func(t *testing.T) {
			text := test.text
			for i := range 4 {
				text = strings.Replace(text, "NAME", fmt.Sprintf("h%d", i), 1)
			}
			p := n.RunPod(t)
			annotated(test.key, text)(p.Config) // they are the pod's present ones that count
			_, err := p.TryCreate(harness.Context(t), p.ContainerConfig("app"))
			wantCode(t, err, codes.InvalidArgument, append(test.want, test.key)...)
			if err != nil && len(err.Error()) > 2000 {
				t.Errorf("the message has %d bytes", len(err.Error()))
			}
			if list, err := n.Daemon.Runtime.ListContainers(harness.Context(t), &runtime.ListContainersRequest{Filter: &runtime.ContainerFilter{PodSandboxId: p.ID}}); err != nil || len(list.Containers) > 0 {
				t.Errorf("there is %v, %v", list, err)
			}
		})
	}
	t.Run("another container's", func(t *testing.T) {
		n.RunPod(t, annotated(prestartKey+".other", "[")).Create(t, "app")
	})
}

// What a hook may have beyond its container is the administrator's to say, namespace by namespace.
func TestAHookHasMoreThanItsContainerOnlyByGrant(t *testing.T) {
	n := harness.Start(t, harness.Config("[hooks]\ngrants = [\"open=NET_ADMIN,uid:0\"]\n"))
	n.Pull(t, harness.Busybox)
	in := func(namespace string) func(*runtime.PodSandboxConfig) {
		return func(c *runtime.PodSandboxConfig) { c.Metadata.Namespace = namespace }
	}
	asUser := func(c *runtime.ContainerConfig) {
		c.Linux.SecurityContext.RunAsUser = &runtime.Int64Value{Value: 1000}
	}
	for name, test := range map[string]struct {
		namespace string
		hook      hook
		edit      func(*runtime.ContainerConfig)
		want      string // what the error names; empty: it is taken
	}{
		"a capability":                    {"closed", shell("a", "", "capabilities", []string{"NET_ADMIN"}), nil, `NET_ADMIN in hooks.grants`},
		"a capability that is granted":    {"open", shell("a", "", "capabilities", []string{"NET_ADMIN"}), nil, ""},
		"another than granted":            {"open", shell("a", "", "capabilities", []string{"SYS_ADMIN"}), nil, `SYS_ADMIN in hooks.grants`},
		"one that the container has":      {"closed", shell("a", "", "capabilities", []string{"CHOWN"}), nil, ""},
		"root for a user":                 {"closed", shell("a", "", "user", "0"), asUser, "uid:0 in hooks.grants"},
		"root for a user that is granted": {"open", shell("a", "", "user", "root"), asUser, ""},
		"a user for root":                 {"closed", shell("a", "", "user", "1000"), nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := n.RunPod(t, in(test.namespace), hooks(t, poststopKey, test.hook))
			edits := []func(*runtime.ContainerConfig){}
			if test.edit != nil {
				edits = append(edits, test.edit)
			}
			_, err := p.TryCreate(harness.Context(t), p.ContainerConfig("app", edits...))
			if test.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantCode(t, err, codes.PermissionDenied, poststopKey, `hook "a"`, test.want, `namespace "`+test.namespace+`"`)
		})
	}
}

// What runs hooks is mounted in the container: where that cannot be, the error says why.
func TestAPlaceThatHooksCannotBeRunFrom(t *testing.T) {
	n := harness.Start(t)
	n.Pull(t, harness.Busybox)
	p := n.RunPod(t, hooks(t, poststopKey, shell("a", "true")))
	_, err := p.TryCreate(harness.Context(t), p.ContainerConfig("read-only", func(c *runtime.ContainerConfig) {
		c.Mounts = []*runtime.Mount{{HostPath: t.TempDir(), ContainerPath: "/run", Readonly: true}}
	}))
	wantCode(t, err, codes.InvalidArgument, "/run/.pouch/hook", "mount at /run is read-only")
	for path, file := range map[string]lab.File{
		"a file":             {Name: "run/.pouch", Content: []byte("x")},
		"a link to a file":   {Name: "run", Link: "/etc/passwd"},
		"a link to nowhere":  {Name: "run", Link: "/nowhere/else"},
		"a link to the host": {Name: "run/.pouch", Link: "/../../../../etc"},
	} {
		ref := pushBusybox(t, n, "hooks:"+strings.ReplaceAll(path, " ", "-"), func(*v1.ConfigFile) {}, file)
		n.Pull(t, ref)
		id, err := p.TryCreate(harness.Context(t), p.ContainerConfig(strings.ReplaceAll(path, " ", "-"), image(ref, 0)))
		if strings.HasSuffix(path, "file") {
			wantCode(t, err, codes.InvalidArgument, "/run/.pouch/hook", "is no folder")
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		c := &harness.Container{ID: id, Config: p.ContainerConfig("x"), Pod: p}
		c.Start(t)
		c.Stop(t, 0)
		if r := hookResults(t, c); len(r) != 1 || r[0].Outcome != "succeeded" {
			t.Errorf("%s: %+v", path, r)
		}
	}
	if _, err := os.Stat("/etc/hook"); err == nil {
		t.Error("the machine's /etc was written to")
	}
}

// Hooks are part of the request: the same one again gets the same container, one with other hooks does not.
func TestHooksArePartOfTheRequest(t *testing.T) {
	n := harness.Start(t)
	n.Pull(t, harness.Busybox)
	p := n.RunPod(t, hooks(t, prestartKey, shell("a", "true")))
	c := p.ContainerConfig("app")
	first, err := p.TryCreate(harness.Context(t), c)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := p.TryCreate(harness.Context(t), c); err != nil || again != first {
		t.Errorf("the same request got %s, %v, before %s", again, err, first)
	}
	hooks(t, prestartKey, shell("a", "false"))(p.Config)
	if _, err := p.TryCreate(harness.Context(t), c); err == nil {
		t.Error("a request with another hook got the same container")
	} else {
		wantCode(t, err, codes.AlreadyExists)
	}
}
