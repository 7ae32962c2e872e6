package hooks

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// process is a container's: of root or of another user, with capabilities in the set that CRI gives.
func process(uid, gid uint32, noNewPrivs bool, caps ...string) *specs.Process {
	return &specs.Process{
		Terminal: true, Args: []string{"app"}, Env: []string{"PATH=/bin", "A=1"}, Cwd: "/srv", NoNewPrivileges: noNewPrivs,
		User:         specs.User{UID: uid, GID: gid, AdditionalGids: []uint32{gid, 77}},
		Capabilities: &specs.LinuxCapabilities{Bounding: caps, Permitted: caps, Effective: caps},
		Rlimits:      []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1, Hard: 2}}, ApparmorProfile: "profile", SelinuxLabel: "label",
	}
}

func TestGrantsAreRead(t *testing.T) {
	got, err := ParseGrants([]string{"web=NET_ADMIN, CAP_NET_RAW,uid:0,uid:1000", "all=uid:*"})
	want := []Grant{{Namespace: "web", Capabilities: []string{"CAP_NET_ADMIN", "CAP_NET_RAW"}, UIDs: []uint32{0, 1000}}, {Namespace: "all", AnyUID: true}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, line := range []string{"", "web", "web=", "=NET_ADMIN", "*=NET_ADMIN", "Web=NET_ADMIN", "web=ALL", "web=NET_ADMIM", "web=uid:", "web=uid:-1", "web=uid:4294967295", "web=uid:root", "web=,"} {
		if _, err := ParseGrants([]string{line}); err == nil || !strings.Contains(err.Error(), `"`+line+`"`) {
			t.Errorf("%q: %v", line, err)
		}
	}
	if _, err := ParseGrants([]string{"web=NET_ADMIN", "web=uid:0"}); err == nil {
		t.Error("a namespace stood there twice")
	}
}

func TestAHookIsTheContainersButForItsCommand(t *testing.T) {
	c := Container{Name: "web", Namespace: "shop", Process: process(1000, 1000, true, "CAP_CHOWN")}
	p, err := Rules{}.Process(Hook{Name: "a", Exec: []string{"x", "y"}, Env: []string{"A=2", "B=3"}}, "annotation x", c, []string{"POUCH_ATTEMPT=4"})
	if err != nil {
		t.Fatal(err)
	}
	want := *c.Process
	want.Terminal, want.Args, want.Env = false, []string{"x", "y"}, []string{"PATH=/bin", "A=2", "B=3", "POUCH_ATTEMPT=4"}
	if !reflect.DeepEqual(*p, want) {
		t.Errorf("got  %+v\nwant %+v", *p, want)
	}
	if !slices.Equal(c.Process.Env, []string{"PATH=/bin", "A=1"}) {
		t.Errorf("the container's own was changed: %q", c.Process.Env)
	}
}

func TestWhatAHookMayHave(t *testing.T) {
	grants, err := ParseGrants([]string{"shop=NET_ADMIN,uid:7", "open=uid:*"})
	if err != nil {
		t.Fatal(err)
	}
	rules := Rules{Grants: grants}
	anybody := []string{"CAP_SETUID", "CAP_SETGID", "CAP_CHOWN"}
	for name, test := range map[string]struct {
		own       *specs.Process
		namespace string
		hook      Hook
		user      specs.User // that the hook's resolves to
		refused   string     // what the error names; empty: it is allowed
	}{
		"root becomes anybody":                         {process(0, 0, true, anybody...), "none", Hook{User: "1000"}, specs.User{UID: 1000}, ""},
		"root without CAP_SETUID":                      {process(0, 0, false, "CAP_SETGID"), "none", Hook{User: "1000"}, specs.User{UID: 1000}, "uid:1000 in hooks.grants"},
		"root without CAP_SETGID":                      {process(0, 0, false, "CAP_SETUID"), "none", Hook{User: "1000"}, specs.User{UID: 1000}, "uid:1000 in hooks.grants"},
		"a user becomes root":                          {process(1000, 1000, false, anybody...), "none", Hook{User: "0"}, specs.User{}, "uid:0 in hooks.grants"},
		"a user becomes root elsewhere than granted":   {process(1000, 1000, false, anybody...), "shop", Hook{User: "0"}, specs.User{}, `namespace "shop"`},
		"a user becomes another that is granted":       {process(1000, 1000, false), "shop", Hook{User: "seven"}, specs.User{UID: 7, GID: 9}, ""},
		"a user becomes anybody where that is so":      {process(1000, 1000, false), "open", Hook{User: "0"}, specs.User{}, ""},
		"a user is itself":                             {process(1000, 1000, true), "none", Hook{User: "1000"}, specs.User{UID: 1000, GID: 0}, ""},
		"a user is itself with its group":              {process(1000, 1000, true), "none", Hook{User: "1000:1000"}, specs.User{UID: 1000, GID: 1000}, ""},
		"a user takes another group":                   {process(1000, 1000, true), "none", Hook{User: "1000:0"}, specs.User{UID: 1000, GID: 0}, "user 1000 with group 0"},
		"root has its bounding set":                    {process(0, 0, true, "CAP_CHOWN"), "none", Hook{Capabilities: []string{"CAP_CHOWN"}}, specs.User{}, ""},
		"root wants more":                              {process(0, 0, true, "CAP_CHOWN"), "none", Hook{Capabilities: []string{"CAP_NET_ADMIN"}}, specs.User{}, "NET_ADMIN in hooks.grants"},
		"more is granted":                              {process(0, 0, true), "shop", Hook{Capabilities: []string{"CAP_NET_ADMIN"}}, specs.User{}, ""},
		"other than granted":                           {process(0, 0, true), "shop", Hook{Capabilities: []string{"CAP_NET_ADMIN", "CAP_SYS_ADMIN"}}, specs.User{}, "CAP_SYS_ADMIN"},
		"a user could get its bounding set":            {process(1000, 1000, false, "CAP_CHOWN"), "none", Hook{Capabilities: []string{"CAP_CHOWN"}}, specs.User{}, ""},
		"a user that can get no new privileges cannot": {process(1000, 1000, true, "CAP_CHOWN"), "none", Hook{Capabilities: []string{"CAP_CHOWN"}}, specs.User{}, "CAP_CHOWN"},
		"no namespace, no grant":                       {process(0, 0, true), "", Hook{Capabilities: []string{"CAP_NET_ADMIN"}}, specs.User{}, "CAP_NET_ADMIN"},
	} {
		t.Run(name, func(t *testing.T) {
			test.hook.Name, test.hook.Exec = "h", []string{"x"}
			c := Container{Name: "web", Namespace: test.namespace, Process: test.own, User: func(string) (specs.User, error) { return test.user, nil }}
			before := *test.own.Capabilities
			p, err := rules.Process(test.hook, "annotation "+prestart, c, nil)
			if !reflect.DeepEqual(before, *test.own.Capabilities) {
				t.Errorf("the container's own capabilities were changed: %+v", *test.own.Capabilities)
			}
			if test.refused != "" {
				if !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), test.refused) || !strings.Contains(err.Error(), `annotation `+prestart+`: hook "h": field `) {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range test.hook.Capabilities {
				sets := [][]string{p.Capabilities.Bounding, p.Capabilities.Permitted, p.Capabilities.Effective}
				if p.User.UID != 0 {
					sets = append(sets, p.Capabilities.Inheritable, p.Capabilities.Ambient)
				}
				for i, set := range sets {
					if !slices.Contains(set, name) {
						t.Errorf("set %d lacks %s: %v", i, name, set)
					}
				}
			}
		})
	}
}
