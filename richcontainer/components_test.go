package richcontainer

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/richrun"
)

func components(t *testing.T, files map[string]string) Node {
	t.Helper()
	n := v1
	n.ComponentsDir = t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(n.ComponentsDir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

func TestComponents(t *testing.T) {
	needRoot(t)
	agent := rootfs(t, map[string]string{"units/agent.service": "[Service]\nExecStart=/run/.pouch/components/agent/bin/agent\n", "bin/start": "#!/bin/sh\n"})
	n := components(t, map[string]string{
		"agent.toml":   "path = '" + agent + "'\nunits = ['units/agent.service']\nscripts = ['bin/start']\nenv = ['TOKEN=a\"b\\%c', \"Q=it's\"]\nessential = true",
		"monitor.toml": "path = '" + agent + "'\nunits = ['units/agent.service']\nnamespaces = ['infra']", "readme.txt": "no component",
	})
	r := request(t, Systemd, rootfs(t, debian(nil)))
	r.Choice.Options.Components = []string{"agent"}
	if _, err := n.Prepare(r); err != nil {
		t.Fatal(err)
	}
	m, i := mountOf(r.Spec, "/run/.pouch/components/agent")
	if i < 0 || m.Source == agent || !slices.Contains(m.Options, "ro") {
		t.Errorf("%+v", m)
	}
	// The node's own files, and nobody can write to them from there.
	start := filepath.Join(m.Source, "bin/start")
	if got, err := os.ReadFile(start); err != nil || string(got) != "#!/bin/sh\n" {
		t.Errorf("%q, %v", got, err)
	}
	if err := os.WriteFile(start, []byte("x"), 0o700); !errors.Is(err, unix.EROFS) {
		t.Errorf("written to: %v", err)
	}
	if got := made(t, r, "units/agent.service.d/40-pouch-component.conf"); got != "[Service]\nEnvironment=\"TOKEN=a\\\"b\\\\%%c\"\nEnvironment=\"Q=it's\"\n" {
		t.Errorf("%s", got)
	}
	for _, name := range []string{"units/agent.service", "units/multi-user.target.wants/agent.service", "units/agent.service.d/50-pouch.conf"} {
		made(t, r, name)
	}
	if plan, err := richrun.ReadPlan(r.Bundle); err != nil || !slices.Equal(plan.WatchUnits, []string{"agent.service"}) {
		t.Errorf("%+v, %v", plan, err)
	}
	r = request(t, SbinInit, rootfs(t, map[string]string{"bin/busybox": "x", "sbin/init": "-> ../bin/busybox"}))
	r.Choice.Options.Components = []string{"agent"}
	if _, err := n.Prepare(r); err != nil {
		t.Fatal(err)
	}
	if got := made(t, r, "inittab"); !strings.HasSuffix(got, "::once:/run/.pouch/scripts/agent-0\n::once:/run/.pouch/launch\n") {
		t.Errorf("%s", got)
	}
	if got := made(t, r, "scripts/agent-0"); got != "#!/bin/sh\n# Component agent, by cri-pouch.\nexport TOKEN='a\"b\\%c'\nexport Q='it'\\''s'\n'/run/.pouch/components/agent/bin/start' || exec /run/.pouch/launch unit component-agent.service\n" {
		t.Errorf("%s", got)
	}
	// One of the administrator's own choice, and its name twice.
	r = request(t, Systemd, rootfs(t, debian(nil)))
	r.Namespace = "infra"
	if _, err := n.Prepare(r); err != nil {
		t.Fatal(err)
	}
	made(t, r, "units/agent.service")
	r = request(t, Systemd, rootfs(t, debian(nil)))
	r.Namespace, r.Choice.Options.Components = "infra", []string{"agent"}
	_, err := n.Prepare(r)
	wantError(t, err, errdefs.IsInvalidArgument, "agent.service", "twice")
	r = request(t, Systemd, rootfs(t, debian(nil)))
	r.Choice.Options.Components = []string{"other"}
	_, err = n.Prepare(r)
	wantError(t, err, errdefs.IsInvalidArgument, `"other"`, "[agent, monitor]", "other.toml")
}

// What is compulsory, and has nothing for an init, keeps nothing from starting unless it is essential; who asks for it by name
// is told.
func TestComponentsWithNothingForAnInit(t *testing.T) {
	needRoot(t)
	agent := rootfs(t, map[string]string{"a.service": "[Service]\n", "start": "#!/bin/sh\n"})
	busybox := map[string]string{"bin/busybox": "x", "sbin/init": "-> ../bin/busybox"}
	for name, tc := range map[string]struct {
		text    string
		mode    Mode
		files   map[string]string
		asked   []string
		refused string
	}{
		"units alone, busybox":          {"units = ['a.service']\nnamespaces = ['*']", SbinInit, busybox, nil, ""},
		"units alone, asked for":        {"units = ['a.service']\nnamespaces = ['*']", SbinInit, busybox, []string{"agent"}, "component agent has no scripts"},
		"units alone, essential":        {"units = ['a.service']\nnamespaces = ['*']\nessential = true", SbinInit, busybox, nil, "component agent has no scripts"},
		"scripts alone, systemd":        {"scripts = ['start']\nnamespaces = ['default']", Systemd, debian(nil), nil, ""},
		"scripts alone, systemd, asked": {"scripts = ['start']", Systemd, debian(nil), []string{"agent"}, "component agent has no units"},
	} {
		t.Run(name, func(t *testing.T) {
			n := components(t, map[string]string{"agent.toml": "path = '" + agent + "'\n" + tc.text})
			r := request(t, tc.mode, rootfs(t, tc.files))
			r.Choice.Options.Components = tc.asked
			_, err := n.Prepare(r)
			if tc.refused != "" {
				wantError(t, err, errdefs.IsFailedPrecondition, tc.refused)
			} else if err != nil {
				t.Error(err)
			} else if _, at := mountOf(r.Spec, "/run/.pouch/components/agent"); at >= 0 {
				t.Error("its folder is mounted")
			}
		})
	}
}

func TestComponentsThatAreWrong(t *testing.T) {
	needRoot(t)
	for name, tc := range map[string]struct{ file, text, want string }{
		"no path":             {"a.toml", "units = ['a.service']", "must be absolute"},
		"nothing to start":    {"a.toml", "path = '/x'", "nothing to start"},
		"a unit outside":      {"a.toml", "path = '/x'\nunits = ['../a.service']", "no path inside"},
		"no unit":             {"a.toml", "path = '/x'\nunits = ['a.conf']", "no name of a unit"},
		"a bad variable":      {"a.toml", "path = '/x'\nunits = ['a.service']\nenv = ['a b=c']", "not KEY=VALUE"},
		"an unknown key":      {"a.toml", "path = '/x'\nunit = ['a.service']", "unknown key"},
		"no TOML":             {"a.toml", "path", "a.toml"},
		"a bad name":          {"A_b.toml", "path = '/x'", "no name of a component"},
		"a folder that's not": {"a.toml", "path = '/does/not/exist'\nunits = ['a.service']\nnamespaces = ['*']", "component a: "},
		"no scripts":          {"a.toml", "path = '/'\nunits = ['a.service']\nnamespaces = ['*']\nessential = true", "has no scripts"},
	} {
		t.Run(name, func(t *testing.T) {
			files, mode := debian(nil), Systemd
			if tc.want == "has no scripts" {
				files, mode = map[string]string{"sbin/init": sysvinitProgram}, SbinInit
			}
			r := request(t, mode, rootfs(t, files))
			_, err := components(t, map[string]string{tc.file: tc.text}).Prepare(r)
			wantError(t, err, errdefs.IsFailedPrecondition, tc.want)
		})
	}
}
