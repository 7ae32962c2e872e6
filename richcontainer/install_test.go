package richcontainer

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-pouch/cri-pouch/internal/richrun"
)

// enabled gives the links below the folder of units, but for the masks and what the application's unit has, after units of the pod
// were brought into an image.
func enabled(t *testing.T, files, units map[string]string) (map[string]string, error) {
	t.Helper()
	r := request(t, Systemd, rootfs(t, debian(files)))
	r.Spec.Mounts = append(r.Spec.Mounts, specs.Mount{Destination: "/units", Type: "bind", Source: rootfs(t, units)})
	r.Choice.Options.UnitsFrom = "/units"
	if _, err := v1.Prepare(r); err != nil {
		return nil, err
	}
	links, dir := map[string]string{}, filepath.Join(r.Bundle, richrun.Dir, unitsDir)
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.Type() != fs.ModeSymlink {
			return err
		}
		to, err := os.Readlink(p)
		if to != nothing && filepath.Base(p) != appUnit {
			links[strings.TrimPrefix(p, dir+"/")] = to
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return links, nil
}

func TestInstallSectionsAreFollowed(t *testing.T) {
	needRoot(t)
	for name, tc := range map[string]struct {
		files, units, want map[string]string
	}{
		"continued lines":     {units: map[string]string{"a.service": "[Install]\nWantedBy=x.target \\\n# between\n  y.target\\\nz.target\n"}, want: map[string]string{"x.target.wants/a.service": "../a.service", "y.target.wants/a.service": "../a.service", "z.target.wants/a.service": "../a.service"}},
		"comments":            {units: map[string]string{"a.service": "[Install]\n#WantedBy=x.target\n;WantedBy=y.target\n"}},
		"taken back":          {units: map[string]string{"a.service": "[Install]\nWantedBy=x.target y.target\nWantedBy=\nWantedBy=x.target\n"}, want: map[string]string{"x.target.wants/a.service": "../a.service"}},
		"twice":               {units: map[string]string{"a.service": "[Install]\nWantedBy=x.target\n[Service]\nWantedBy=no.target\n[Install]\nRequiredBy=\"x.target\"\nWantedBy=x.target\r\n"}, want: map[string]string{"x.target.wants/a.service": "../a.service", "x.target.requires/a.service": "../a.service"}},
		"an alias":            {units: map[string]string{"a.service": "[Install]\nAlias=b.service a.service b.service\n"}, want: map[string]string{"b.service": "a.service"}},
		"an alias of a mask":  {units: map[string]string{"a.target": "[Install]\nAlias=getty.target\n"}, want: map[string]string{"getty.target": "a.target"}},
		"also, brought in":    {units: map[string]string{"a.service": "[Install]\nAlso=a.socket\n", "a.socket": "[Install]\nWantedBy=sockets.target\n"}, want: map[string]string{"sockets.target.wants/a.socket": "../a.socket"}},
		"also, of the image":  {files: map[string]string{"usr/lib/systemd/system/b.service": "[Install]\nWantedBy=x.target\nAlias=c.service\nAlso=a.service b.service\n", "usr/lib/systemd/system/a.service": ""}, units: map[string]string{"a.service": "[Install]\nAlso=b.service\n"}, want: map[string]string{"x.target.wants/b.service": "/usr/lib/systemd/system/b.service", "c.service": "/usr/lib/systemd/system/b.service"}},
		"also, a masked one":  {units: map[string]string{"a.service": "[Install]\nWantedBy=x.target\nAlso=systemd-udevd.service\n"}, want: map[string]string{"x.target.wants/a.service": "../a.service"}},
		"an instance":         {units: map[string]string{"a@.service": "[Install]\nWantedBy=x.target\nDefaultInstance=one\n"}, want: map[string]string{"x.target.wants/a@one.service": "../a@.service"}},
		"no instance":         {units: map[string]string{"a@.service": "[Install]\nWantedBy=x.target\n"}},
		"a device, and more":  {units: map[string]string{"a.service": "[Install]\nWantedBy=dev-sda.device x.target %i.target\n"}, want: map[string]string{"x.target.wants/a.service": "../a.service"}},
		"nothing said":        {units: map[string]string{"a.service": "[Install]\n"}},
		"as many as are well": {units: map[string]string{"a.service": install64("a")}, want: links64("a")},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := enabled(t, tc.files, tc.units)
			if err != nil {
				t.Fatal(err)
			}
			if tc.want == nil {
				tc.want = map[string]string{}
			}
			if !maps.Equal(got, tc.want) {
				t.Errorf("links %v, want %v", got, tc.want)
			}
		})
	}
}

// install64 wants as many targets as one unit may.
func install64(name string) string {
	var b strings.Builder
	b.WriteString("[Install]\n")
	for n := range maxInstalled {
		fmt.Fprintf(&b, "WantedBy=%s%d.target\n", name, n)
	}
	return b.String()
}

func links64(name string) map[string]string {
	links := map[string]string{}
	for n := range maxInstalled {
		links[fmt.Sprintf("%s%d.target.wants/%s.service", name, n, name)] = "../" + name + ".service"
	}
	return links
}

func TestInstallSectionsThatAreRefused(t *testing.T) {
	needRoot(t)
	var names strings.Builder
	for n := range 25000 {
		fmt.Fprintf(&names, "%x.path ", n)
	}
	many, large := map[string]string{}, map[string]string{}
	for n := range maxLinks/maxInstalled + 1 {
		name := fmt.Sprintf("u%02d", n)
		many[name+".service"] = install64(name)
	}
	for n := range 5 {
		large[fmt.Sprintf("u%d.service", n)] = "#" + strings.Repeat("x", maxUnitFile-1)
	}
	for name, tc := range map[string]struct {
		units map[string]string
		want  []string
	}{
		"25,000 names":             {map[string]string{"a.service": "[Install]\nWantedBy=" + names.String()}, []string{"unit a.service", "more than 64 units", "name a target"}},
		"25,000 others":            {map[string]string{"a.service": "[Install]\nAlso=" + names.String()}, []string{"unit a.service", "more than 64 units"}},
		"many units":               {many, []string{"unit u16.service", "more than 1024 links", "leave some out"}},
		"much text":                {large, []string{"more than 1048576 bytes together", "leave out"}},
		"nothing to follow":        {map[string]string{"a.service": "[Install]\nWantedBy=dev-%i.device\n"}, []string{"unit a.service", "dev-%i.device", "without specifiers"}},
		"an alias of another kind": {map[string]string{"a.service": "[Install]\nAlias=a.socket\n"}, []string{"Alias=a.socket", "same ending"}},
		"an alias that is a unit":  {map[string]string{"a.service": "[Install]\nAlias=b.service\n", "b.service": ""}, []string{"Alias=b.service", "remove one"}},
		"an alias of two":          {map[string]string{"a.service": "[Install]\nAlias=c.service\n", "b.service": "[Install]\nAlias=c.service\n"}, []string{"unit b.service", "Alias=c.service", "remove one"}},
		"also what is not there":   {map[string]string{"a.service": "[Install]\nAlso=b.service\n"}, []string{"Also=b.service", "no such unit"}},
		"a name of ours":           {map[string]string{"a.service": "[Install]\nAlias=pouch-app.service\n"}, []string{"pouch-app.service"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := enabled(t, nil, tc.units)
			wantError(t, err, errdefs.IsInvalidArgument, append(tc.want, "annotation rich.cri-pouch.io/units-from, folder /units")...)
		})
	}
}

// A component's unit is the administrator's to mend.
func TestAComponentsInstallSection(t *testing.T) {
	needRoot(t)
	agent := rootfs(t, map[string]string{"agent.service": "[Install]\nAlso=none.service\n"})
	n := components(t, map[string]string{"agent.toml": "path = '" + agent + "'\nunits = ['agent.service']\nnamespaces = ['*']"})
	_, err := n.Prepare(request(t, Systemd, rootfs(t, debian(nil))))
	wantError(t, err, errdefs.IsFailedPrecondition, "component agent, unit agent.service", "Also=none.service")
}

// After the first file that cannot be made nothing else is tried.
func TestNothingIsMadeAfterAFailure(t *testing.T) {
	f := &folder{dir: t.TempDir(), uid: os.Getuid(), gid: os.Getgid()}
	f.link("a", "x")
	f.link("a", "y")
	f.file("b", nil, 0o600)
	f.link("c", "x")
	f.sub("d")
	f.fifo("e", f.uid)
	entries, err := os.ReadDir(f.dir)
	if names := slices.Collect(func(yield func(string) bool) {
		for _, e := range entries {
			yield(e.Name())
		}
	}); err != nil || !slices.Equal(names, []string{"a"}) || f.err == nil || !strings.Contains(f.err.Error(), "make a of") {
		t.Errorf("%v, %v, %v", names, f.err, err)
	}
}
