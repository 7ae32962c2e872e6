package richcontainer

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

// unitFolders are where systemd finds the units of an image, those that count before the others first (systemd.unit(5)),
// generatedFrom where it finds the scripts that it makes units of.
var unitFolders = []string{"/etc/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"}

const generatedFrom = "/etc/init.d"

// nothing is what a masked unit is a link to.
const nothing = "/dev/null"

// maxAliases bounds the names that lead to a unit, one over the other.
const maxAliases = 8

// namedUnits insists that the units that annotations name are there and can be started: systemd would say nothing of a
// misspelled or masked one, the application would be started without it, and its failure would end nothing. Of those whose
// failure is watched it keeps the name that systemd will tell: an alias is never heard of. Units of kinds that systemd
// makes without a file, and those that may be in what the pod mounts, pass.
func (i *realInit) namedUnits(e *installer) error {
	o := i.r.Choice.Options
	for _, name := range o.After {
		if name == defaultAfter {
			continue
		}
		if _, err := i.real("after", name, e); err != nil {
			return err
		}
	}
	var watched []string
	for _, name := range o.WatchUnits {
		real, err := i.real("watch-units", name, e)
		if err != nil {
			return err
		}
		if !slices.Contains(watched, real) {
			watched = append(watched, real)
			i.report(real)
		}
	}
	i.plan.WatchUnits = append(watched, i.plan.WatchUnits...)
	return nil
}

// real gives the name under which systemd knows a unit that an annotation names.
func (i *realInit) real(option, name string, e *installer) (string, error) {
	refuse := func(format string, args ...any) (string, error) {
		return "", i.r.Choice.refuse(errdefs.ErrInvalidArgument, "annotation %s%s names the unit %s, %w", Prefix, option, name, fmt.Errorf(format, args...))
	}
	if real := e.alias[name]; real != "" {
		return real, nil
	}
	if _, ok := e.brought[name]; ok {
		return name, nil
	}
	if _, ok := e.brought[template(name)]; ok {
		return name, nil
	}
	at, err := i.findUnit(name)
	masks := maskedUnits()
	switch {
	case slices.Contains(masks, at.name) || slices.Contains(masks, template(at.name)) || slices.Contains(masks, name) || slices.Contains(masks, template(name)):
		return refuse("which is masked in every container, for it looks after a machine's devices, kernel, consoles or network: remove it from the annotation")
	case err != nil:
		return refuse("%w", err)
	case at.masked:
		return refuse("which the image masks, so that it never starts: unmask it in the image (systemctl unmask %s), or remove it from the annotation", at.name)
	case at.name == "":
		return refuse("which is not there: no file of the image in %s, and none that pod or components bring in: correct the name, or bring it in by %sunits-from",
			strings.Join(unitFolders, ", "), Prefix)
	}
	return at.name, nil
}

// foundUnit is a unit of the image.
type foundUnit struct {
	name   string // as systemd knows it; empty: there is none
	file   string // path in the image; empty: systemd makes it, or it may be in what the pod mounts
	masked bool
}

// findUnit finds what the image has under a name, which may be an alias: a link to another unit in one of the folders.
func (i *realInit) findUnit(name string) (foundUnit, error) {
	for range maxAliases {
		at, err := i.findFile(name)
		if err != nil || at.name == name || at.name == "" || at.masked {
			return at, err
		}
		name = at.name
	}
	return foundUnit{}, fmt.Errorf("whose aliases lead on and on: let it be a link to the unit itself: %w", errdefs.ErrInvalidArgument)
}

// findFile looks into the folders for one name.
func (i *realInit) findFile(name string) (foundUnit, error) {
	switch path.Ext(name) {
	case ".service", ".socket", ".target", ".timer", ".path":
	default:
		return foundUnit{name: name}, nil
	}
	for _, file := range []string{name, template(name)} {
		for _, folder := range unitFolders {
			at, err := i.unitAt(path.Join(folder, file), name)
			if err != nil || at.name != "" {
				return at, err
			}
		}
	}
	script := path.Join(generatedFrom, strings.TrimSuffix(name, ".service"))
	if i.image.hidden(script) {
		return foundUnit{name: name}, nil
	}
	if _, there, err := i.image.look(script); err != nil || !there {
		return foundUnit{}, err
	}
	return foundUnit{name: name}, nil
}

// unitAt gives what one path has for a unit of that name.
func (i *realInit) unitAt(p, name string) (foundUnit, error) {
	if i.image.hidden(p) {
		return foundUnit{name: name}, nil
	}
	f, there, err := i.image.look(p)
	if err != nil {
		return foundUnit{}, err
	}
	if !there {
		if i.image.end(p) == nothing {
			return foundUnit{name: name, masked: true}, nil
		}
		return foundUnit{}, nil
	}
	at := foundUnit{name: name, file: f.path, masked: f.path == nothing || f.mode.IsRegular() && f.size == 0}
	if base := path.Base(f.path); slices.Contains(unitFolders, path.Dir(f.path)) && base != path.Base(p) && path.Ext(base) == path.Ext(name) {
		at.name = base
		if before, rest, ok := strings.Cut(base, "@."); ok { // the instance is the same
			_, instance, _ := strings.Cut(strings.TrimSuffix(name, path.Ext(name)), "@")
			at.name = before + "@" + instance + "." + rest
		}
	}
	return at, nil
}

// template is the name of the unit that an instance is made of; any other unit's is its own.
func template(name string) string {
	before, rest, instance := strings.Cut(name, "@")
	if !instance {
		return name
	}
	return before + "@" + path.Ext(rest)
}
