package richcontainer

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cri-pouch/cri-pouch/internal/richrun"
)

func TestWhoChoosesTheMode(t *testing.T) {
	n := Node{Handlers: map[string]Mode{"vm": Systemd, "plain": None}}
	label := func(v string) map[string]string { return map[string]string{modeLabel: v} }
	pouch := func(v ...string) (env []string) {
		for i, name := range []string{richVariable, mannerVariable} {
			if i < len(v) {
				env = append(env, name+"="+v[i])
			}
		}
		return env
	}
	for name, tc := range map[string]struct {
		from Source
		want Mode
		by   string
	}{
		"nobody":                                 {Source{}, None, ""},
		"the annotation":                         {Source{Annotations: map[string]string{modeKey: "systemd"}}, Systemd, "annotation rich.cri-pouch.io/mode"},
		"the container's before the pod's":       {Source{Annotations: map[string]string{modeKey: "systemd", modeKey + ".app": "dumb-init"}}, DumbInit, "annotation rich.cri-pouch.io/mode.app"},
		"another container's":                    {Source{Annotations: map[string]string{modeKey + ".other": "systemd"}}, None, ""},
		"a container whose name has a dot":       {Source{Annotations: map[string]string{modeKey + ".app.x": "systemd"}}, None, ""},
		"one is left out":                        {Source{Annotations: map[string]string{modeKey: "systemd", modeKey + ".app": "none"}}, None, "annotation rich.cri-pouch.io/mode.app"},
		"the handler":                            {Source{Handler: "vm"}, Systemd, `runtime handler "vm"`},
		"the annotation before the handler":      {Source{Handler: "vm", Annotations: map[string]string{modeKey: "none"}}, None, "annotation"},
		"the handler before the label":           {Source{Handler: "vm", Labels: label("dumb-init")}, Systemd, "handler"},
		"a handler that wants none":              {Source{Handler: "plain", Labels: label("dumb-init")}, None, "handler"},
		"a handler without a word on it":         {Source{Handler: "runc", Labels: label("dumb-init")}, DumbInit, "label io.cri-pouch.rich.mode"},
		"one that joins another":                 {Source{Joins: true, Handler: "vm", Labels: label("dumb-init"), Annotations: map[string]string{modeKey: "systemd"}}, None, ""},
		"one that joins another has its own":     {Source{Joins: true, Annotations: map[string]string{modeKey: "none", modeKey + ".app": "dumb-init"}}, DumbInit, "annotation rich.cri-pouch.io/mode.app"},
		"the default handler":                    {Source{Handler: ""}, None, ""},
		"the label before the variables":         {Source{Labels: label("sbin-init"), Env: pouch("true", "systemd")}, SbinInit, "label"},
		"variables":                              {Source{Env: pouch("true", "systemd")}, Systemd, "rich_mode=true"},
		"the variable alone":                     {Source{Env: pouch("true")}, DumbInit, "rich_mode=true"},
		"a manner without the switch":            {Source{Env: []string{mannerVariable + "=systemd"}}, None, ""},
		"the switch is off":                      {Source{Env: pouch("false", "systemd")}, None, ""},
		"a pod's variable after the image's":     {Source{Env: append(pouch("true", "systemd"), pouch("true", "sbin-init")...)}, SbinInit, "sbin-init"},
		"a bad value that something is put over": {Source{Labels: label("upstart"), Annotations: map[string]string{modeKey: "none"}}, None, "annotation"},
	} {
		t.Run(name, func(t *testing.T) {
			tc.from.Container = "app"
			got, err := n.Choose(tc.from)
			if err != nil || got.Mode != tc.want || !strings.Contains(got.By, tc.by) || tc.by == "" && got.By != "" {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

func TestAChoiceThatIsNone(t *testing.T) {
	for name, tc := range map[string]struct {
		from Source
		want []string
	}{
		"an annotation":        {Source{Annotations: map[string]string{modeKey: "Systemd"}}, []string{"annotation rich.cri-pouch.io/mode:", `"Systemd"`, "write one of systemd, sbin-init, dumb-init, none"}},
		"an empty annotation":  {Source{Annotations: map[string]string{modeKey + ".app": ""}}, []string{"annotation rich.cri-pouch.io/mode.app:"}},
		"a label":              {Source{Labels: map[string]string{modeLabel: "upstart"}}, []string{"label io.cri-pouch.rich.mode of the image", "upstart", "rich.cri-pouch.io/mode.app"}},
		"a manner":             {Source{Env: []string{"rich_mode=true", "rich_mode_launch_manner=tini"}}, []string{"variable rich_mode_launch_manner", "tini"}},
		"a switch":             {Source{Env: []string{"rich_mode=yes"}}, []string{"variable rich_mode", "true or false"}},
		"an option of a plain": {Source{Annotations: map[string]string{Prefix + "restart.app": "always"}}, []string{"rich.cri-pouch.io/restart.app", `"app" is none`, "rich.cri-pouch.io/mode.app"}},
		"an option of another": {Source{Annotations: map[string]string{modeKey: "dumb-init", Prefix + "restart": "always"}}, []string{"rich.cri-pouch.io/restart", "dumb-init mode", "systemd sbin-init"}},
	} {
		t.Run(name, func(t *testing.T) {
			tc.from.Container = "app"
			_, err := (Node{}).Choose(tc.from)
			wantError(t, err, errdefs.IsInvalidArgument, tc.want...)
		})
	}
}

func wantError(t *testing.T, err error, class func(error) bool, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("it was taken")
	}
	if !class(err) {
		t.Errorf("another class: %v", err)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("%q does not hold %q", err, p)
		}
	}
}

func TestWhichAnnotationsApply(t *testing.T) {
	got, err := Applying(map[string]string{
		"other/thing": "1", modeKey: "systemd", modeKey + ".app": "none", modeKey + ".db": "dumb-init", Prefix + "restart": "always", Prefix + "restart.application": "no",
	}, "app")
	want := map[string]string{modeKey: "systemd", modeKey + ".app": "none", Prefix + "restart": "always"}
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := Applying(map[string]string{"a": "b", modeKey + ".db": "nonsense"}, "app"); err != nil || got != nil {
		t.Errorf("nothing applies: %v, %v", got, err)
	}
	if _, err := Applying(map[string]string{Prefix + "restart.app": "always"}, "app"); err != nil {
		t.Errorf("the mode may come from handler, label or variables: %v", err)
	}
}

func TestOptions(t *testing.T) {
	c, err := (Node{}).Choose(Source{Container: "app", Annotations: map[string]string{modeKey: "systemd"}})
	if err != nil {
		t.Fatal(err)
	}
	if o := c.Options; o.Restart != richrun.RestartNo || o.ShutdownTimeout != 10*time.Second || !slices.Equal(o.After, []string{"basic.target"}) || o.UnitsFrom != "" || o.WatchUnits != nil {
		t.Errorf("where nothing is said: %+v", o)
	}
	c, err = (Node{}).Choose(Source{Container: "app", Annotations: map[string]string{
		modeKey: "systemd", Prefix + "restart": "on-failure", Prefix + "restart-limit": "3", Prefix + "restart-limit.app": "4", Prefix + "restart-interval": "250ms",
		Prefix + "shutdown-timeout": "1m", Prefix + "after": " network-online.target, a@b.service ", Prefix + "watch-units": "nginx.service",
		Prefix + "units-from": "/etc/pouch/units/", Prefix + "components": "log-agent,monitor",
	}})
	if err != nil {
		t.Fatal(err)
	}
	o := c.Options
	if o.Restart != richrun.RestartOnFailure || o.RestartLimit != 4 || o.RestartInterval != 250*time.Millisecond || o.ShutdownTimeout != time.Minute ||
		!slices.Equal(o.After, []string{"network-online.target", "a@b.service"}) || !slices.Equal(o.WatchUnits, []string{"nginx.service"}) ||
		o.UnitsFrom != "/etc/pouch/units" || !slices.Equal(o.Components, []string{"log-agent", "monitor"}) {
		t.Errorf("%+v", o)
	}
	c, err = (Node{}).Choose(Source{Container: "app", Annotations: map[string]string{modeKey: "systemd", Prefix + "after": "", Prefix + "components": ""}})
	if err != nil || c.Options.After != nil || c.Options.Components != nil {
		t.Errorf("an empty list is none: %+v, %v", c.Options, err)
	}
}

func TestOptionsThatAreNone(t *testing.T) {
	for _, tc := range []struct{ name, value, want string }{
		{"restart", "never", "none of no, on-failure, always"},
		{"restart-limit", "-1", "no number from 0 to 10000"},
		{"restart-limit", "10001", "no number from 0 to 10000"},
		{"restart-limit", "many", "no number"},
		{"restart-limit", "5", "rich.cri-pouch.io/restart does not say when"},
		{"restart-interval", "5s", "rich.cri-pouch.io/restart does not say when"},
		{"restart-interval", "5", "no duration"},
		{"restart-interval", "25h", "out of range"},
		{"restart-interval", "-1s", "out of range"},
		{"shutdown-timeout", "0s", "out of range, give 1s to 10m0s"},
		{"shutdown-timeout", "9999999999h", "no duration"},
		{"after", "network-online", "no name of a unit"},
		{"after", "../../etc/passwd.service", "no name of a unit"},
		{"after", "a b.service", "no name of a unit"},
		{"after", "a.service,,b.service", "name 2 is empty"},
		{"after", "a.service,a.service", "stands there twice"},
		{"after", "getty@.service", "template"},
		{"after", "pouch-app.service", "belong to cri-pouch"},
		{"after", "a\nb.service", "no name of a unit"},
		{"after", strings.Repeat("x", 300) + ".service", "at most 200"},
		{"after", strings.Repeat("a.service,", 100), "at most 64"},
		{"watch-units", "x.device", "no name of a unit"},
		{"watch-units", "%n.service", "no name of a unit"},
		{"units-from", "etc/units", "not absolute"},
		{"units-from", "", "not absolute"},
		{"units-from", "/etc/../../x", "'..'"},
		{"units-from", "/" + strings.Repeat("x", 5000), "no possible path"},
		{"components", "Agent", "no name of a component"},
		{"components", "../x", "no name of a component"},
		{"color", "red", "unknown, there are rich.cri-pouch.io/mode, rich.cri-pouch.io/restart"},
		{"", "x", "unknown"},
		{"mod", "systemd", "unknown"},
	} {
		_, err := Applying(map[string]string{modeKey: "systemd", Prefix + tc.name: tc.value}, "app")
		if err == nil || !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), Prefix+tc.name) {
			t.Errorf("%s=%.50q: %v", tc.name, tc.value, err)
		}
	}
}

func TestTheStopSignalIsForTheApplication(t *testing.T) {
	for _, tc := range []struct {
		mode        Mode
		asked, want string
	}{
		{Systemd, "SIGRTMIN+3", "SIGTERM"}, {Systemd, "37", "SIGTERM"}, {SbinInit, "SIGPWR", "SIGTERM"},
		{Systemd, "SIGQUIT", "SIGQUIT"}, {DumbInit, "SIGRTMIN+3", "SIGRTMIN+3"}, {None, "SIGPWR", "SIGPWR"},
	} {
		if got := tc.mode.SignalFor(tc.asked); got != tc.want {
			t.Errorf("%s in %s mode: %s", tc.asked, tc.mode, got)
		}
	}
}
