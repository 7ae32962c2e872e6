package richcontainer

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/mountpoint"
	"github.com/cri-pouch/cri-pouch/internal/richrun"
)

// maxComponents bounds the registered components, and the files of each.
const maxComponents = 64

// Component is something of the administrator's that runs beside applications: a log agent, monitoring. Its file
// <components_dir>/NAME.toml registers it.
type Component struct {
	Name string `toml:"-"`
	// Path is the folder on the host that containers see, read-only, at /run/.pouch/components/NAME.
	Path string `toml:"path"`
	// Units are unit files in Path that systemd starts; Scripts are programs in Path that other inits run once.
	Units   []string `toml:"units"`
	Scripts []string `toml:"scripts"`
	Env     []string `toml:"env"` // KEY=VALUE for units and scripts
	// Namespaces are those whose rich containers must have it; "*" is all.
	Namespaces []string `toml:"namespaces"`
	// Essential says that its failure ends the container.
	Essential bool `toml:"essential"`
}

// components gives those that the container is to have: what the pod asks for, and what is compulsory in its namespace, if it
// has something for the init or is essential. What the namespace is called is the CRI client's word.
func (n Node) components(r Request, has func(Component) bool) ([]Component, error) {
	all, err := ReadComponents(n.ComponentsDir)
	if err != nil {
		return nil, r.Choice.refuse(errdefs.ErrFailedPrecondition, "%w", err)
	}
	var out []Component
	for _, c := range all {
		compulsory := slices.Contains(c.Namespaces, "*") || slices.Contains(c.Namespaces, r.Namespace)
		if slices.Contains(r.Choice.Options.Components, c.Name) || compulsory && (c.Essential || has(c)) {
			out = append(out, c)
		}
	}
	for _, asked := range r.Choice.Options.Components {
		if !slices.ContainsFunc(all, func(c Component) bool { return c.Name == asked }) {
			var names []string
			for _, c := range all {
				names = append(names, c.Name)
			}
			return nil, r.Choice.refuse(errdefs.ErrInvalidArgument, "annotation %scomponents asks for %q, this node has [%s]: the administrator registers one by a file %s",
				Prefix, asked, list(names), filepath.Join(n.ComponentsDir, asked+".toml"))
		}
	}
	return out, nil
}

// ReadComponents reads the registered components, sorted by name. Errors are FailedPrecondition and name the file: one that
// may be compulsory is not left out because nobody can read it.
func ReadComponents(dir string) ([]Component, error) {
	if dir == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read components: %w", err)
	}
	var out []Component
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".toml")
		if !ok || strings.HasPrefix(name, ".") {
			continue
		}
		c, err := readComponent(filepath.Join(dir, e.Name()), name)
		if err != nil {
			return nil, fmt.Errorf("component %s: %w: %w", filepath.Join(dir, e.Name()), err, errdefs.ErrFailedPrecondition)
		}
		if out = append(out, c); len(out) > maxComponents {
			return nil, fmt.Errorf("more than %d components in %s: %w", maxComponents, dir, errdefs.ErrFailedPrecondition)
		}
	}
	return out, nil
}

func readComponent(file, name string) (Component, error) {
	c := Component{Name: name}
	if err := checkComponentName(name); err != nil {
		return c, err
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return c, err
	}
	d := toml.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		var strict *toml.StrictMissingError
		if errors.As(err, &strict) {
			return c, fmt.Errorf("unknown key:\n%s", strict)
		}
		return c, err
	}
	return c, c.check()
}

func (c Component) check() error {
	switch {
	case !filepath.IsAbs(c.Path):
		return fmt.Errorf("path %q must be absolute", c.Path)
	case len(c.Units) == 0 && len(c.Scripts) == 0:
		return fmt.Errorf("it has neither units nor scripts: there is nothing to start")
	case len(c.Units)+len(c.Scripts) > maxComponents:
		return fmt.Errorf("it has more than %d units and scripts", maxComponents)
	}
	for _, f := range slices.Concat(c.Units, c.Scripts) {
		if !filepath.IsLocal(f) || strings.ContainsAny(f, "\n\x00") {
			return fmt.Errorf("%q is no path inside of %s", f, c.Path)
		}
	}
	for _, u := range c.Units {
		if err := checkUnitName(path.Base(u)); err != nil {
			return fmt.Errorf("units: %w", err)
		}
	}
	for _, v := range c.Env {
		if name, _, ok := strings.Cut(v, "="); !ok || !shellName.MatchString(name) || strings.ContainsRune(v, 0) {
			return fmt.Errorf("env: %q is not KEY=VALUE", v)
		}
	}
	return nil
}

// sealedDir is the folder in a bundle where the components of a container are mounted.
const sealedDir = "components"

// mountComponent shows a component's folder, sealed: what other containers of the node run, and the
// node itself maybe, must not be overwritten by root in one of them. The place for it is in our
// folder, so that no image can have something else there.
func (i *realInit) mountComponent(c Component) (*os.File, error) {
	source, err := filepath.EvalSymlinks(c.Path)
	if err != nil {
		return nil, i.r.Choice.refuse(errdefs.ErrFailedPrecondition, "component %s: %w", c.Name, err)
	}
	root, err := os.OpenFile(source, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, i.r.Choice.refuse(errdefs.ErrFailedPrecondition, "component %s: %w", c.Name, err)
	}
	sealed := filepath.Join(i.r.Bundle, sealedDir, c.Name)
	err = os.MkdirAll(filepath.Dir(sealed), 0o700)
	if err == nil {
		err = mountpoint.Sealed(source, sealed)
	}
	if err != nil {
		_ = root.Close()
		return nil, i.r.Choice.refuse(errdefs.ErrFailedPrecondition, "component %s: %w", c.Name, err)
	}
	at := path.Join(componentsDir, c.Name)
	i.folder.sub(at)
	i.mounts = append(i.mounts, bind(sealed, path.Join(richrun.Folder, at), "ro"))
	return root, nil
}

// Unseal takes the mounts of components in a bundle away; that there are none, or no such bundle,
// is no error.
func Unseal(bundle string) error {
	dir := filepath.Join(bundle, sealedDir)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list mounted components: %w", err)
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, mountpoint.Clear(filepath.Join(dir, e.Name())))
	}
	return errors.Join(errs...)
}

// componentUnits reads the units of a component and makes their drop-ins: its variables, and the report of a failure.
func (i *realInit) componentUnits(c Component) ([]unitFile, error) {
	if len(c.Units) == 0 {
		return nil, i.r.Choice.refuse(errdefs.ErrFailedPrecondition, "component %s has no units for systemd: the administrator has to add some", c.Name)
	}
	root, err := i.mountComponent(c)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	var out []unitFile
	for _, u := range c.Units {
		name := path.Base(u)
		text, err := readUnit(root, u, name)
		if err != nil {
			return nil, i.r.Choice.refuse(errdefs.ErrFailedPrecondition, "component %s: %w", c.Name, err)
		}
		out = append(out, unitFile{name: name, text: text, component: c.Name})
		if strings.HasSuffix(name, ".service") && len(c.Env) > 0 {
			i.folder.file(path.Join(unitsDir, name+".d", "40-pouch-component.conf"), []byte("[Service]\n"+unitEnvironment(c.Env)), 0o600)
		}
		i.report(name)
		if c.Essential {
			i.plan.WatchUnits = append(i.plan.WatchUnits, name)
		}
	}
	return out, nil
}

// componentScripts makes a script for each of a component's, which sets its variables and reports a failure, and gives
// their paths in the container.
func (i *realInit) componentScripts(c Component) ([]string, error) {
	if len(c.Scripts) == 0 {
		return nil, i.r.Choice.refuse(errdefs.ErrFailedPrecondition, "component %s has no scripts, the image's init is not systemd: the administrator has to add some", c.Name)
	}
	root, err := i.mountComponent(c)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	unit := componentUnit(c.Name)
	if c.Essential {
		i.plan.WatchUnits = append(i.plan.WatchUnits, unit)
	}
	var out []string
	for n, script := range c.Scripts {
		name := path.Join(scriptsDir, fmt.Sprintf("%s-%d", c.Name, n))
		var b strings.Builder
		b.WriteString("#!/bin/sh\n# Component " + c.Name + ", by cri-pouch.\n")
		for _, v := range c.Env {
			key, value, _ := strings.Cut(v, "=")
			b.WriteString("export " + key + "=" + shellQuote(value) + "\n")
		}
		fmt.Fprintf(&b, "%s || exec %s unit %s\n", shellQuote(path.Join(richrun.Folder, componentsDir, c.Name, script)), path.Join(richrun.Folder, richrun.LaunchFile), unit)
		i.folder.file(name, []byte(b.String()), 0o500)
		out = append(out, path.Join(richrun.Folder, name))
		i.plan.Brought = append(i.plan.Brought, richrun.Brought{
			Unit: unit, Component: c.Name, Script: path.Join(richrun.Folder, componentsDir, c.Name, script),
		})
	}
	return out, nil
}

// componentUnit is the name under which the failure of a component's script is recorded.
func componentUnit(name string) string { return "component-" + name + ".service" }
