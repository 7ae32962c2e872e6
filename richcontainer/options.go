package richcontainer

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cri-pouch/cri-pouch/internal/annotation"
	"github.com/cri-pouch/cri-pouch/internal/richrun"
)

// What counts where a pod says nothing, and bounds.
const (
	defaultShutdownTimeout = 10 * time.Second
	defaultRestartLimit    = 10
	defaultRestartInterval = time.Second
	defaultAfter           = "basic.target"

	maxShutdownTimeout = 10 * time.Minute
	maxRestartInterval = 24 * time.Hour
	maxNames           = 64
	maxUnitName        = 200 // the launcher's own
	maxPath            = 4096
)

// option is one annotation beside the mode.
type option struct {
	name  string
	modes []Mode // that know it
	read  func(o *Options, value string) error
}

func options() []option {
	// An init of sbin-init mode may turn out to be systemd.
	real := []Mode{Systemd, SbinInit}
	return []option{
		{"restart", real, readRestart},
		{"restart-limit", real, func(o *Options, v string) error {
			n, err := strconv.ParseUint(v, 10, 32)
			if err != nil || n > richrun.RestartsMax {
				return fmt.Errorf("%.100q is no number from 0 to %d", v, richrun.RestartsMax)
			}
			o.RestartLimit = uint(n)
			return nil
		}},
		{"restart-interval", real, func(o *Options, v string) (err error) {
			o.RestartInterval, err = duration(v, 0, maxRestartInterval)
			return err
		}},
		{"shutdown-timeout", real, func(o *Options, v string) (err error) {
			o.ShutdownTimeout, err = duration(v, time.Second, maxShutdownTimeout)
			return err
		}},
		{"after", real, func(o *Options, v string) (err error) {
			o.After, err = names(v, checkUnitName)
			return err
		}},
		{"watch-units", real, func(o *Options, v string) (err error) {
			o.WatchUnits, err = names(v, checkUnitName)
			return err
		}},
		{"units-from", real, readUnitsFrom},
		{"components", real, func(o *Options, v string) (err error) {
			o.Components, err = names(v, checkComponentName)
			return err
		}},
	}
}

func optionNames() []string {
	out := []string{strings.TrimPrefix(modeKey, Prefix)}
	for _, o := range options() {
		out = append(out, o.name)
	}
	return out
}

// readOptions reads all but the mode. An option that the mode does not know contradicts it; only what a pod says of all of
// its containers means nothing to a plain one.
func readOptions(annotations map[string]string, container string, c Choice) (Options, error) {
	out := Options{
		Restart: richrun.RestartNo, RestartLimit: defaultRestartLimit, RestartInterval: defaultRestartInterval,
		ShutdownTimeout: defaultShutdownTimeout, After: []string{defaultAfter},
	}
	for _, o := range options() {
		value, key := annotation.For(annotations, Prefix+o.name, container)
		if key == "" {
			continue
		}
		if err := o.read(&out, strings.TrimSpace(value)); err != nil {
			return out, fmt.Errorf("annotation %s: %w: %w", key, err, errdefs.ErrInvalidArgument)
		}
		switch {
		case slices.Contains(o.modes, c.Mode):
		case c.Rich():
			return out, fmt.Errorf("annotation %s is for the modes %v, but container %q is in %s mode (%s): remove it, or give it to one container as %s%s.NAME: %w",
				key, o.modes, container, c.Mode, c.By, Prefix, o.name, errdefs.ErrInvalidArgument)
		case key != Prefix+o.name:
			return out, fmt.Errorf("annotation %s is for a rich container, but %q is none: remove it, or add %s.%s: %w",
				key, container, modeKey, container, errdefs.ErrInvalidArgument)
		}
	}
	return out, contradictions(annotations, container, out)
}

func contradictions(annotations map[string]string, container string, o Options) error {
	if o.Restart != richrun.RestartNo {
		return nil
	}
	for _, name := range []string{"restart-limit", "restart-interval"} {
		if _, key := annotation.For(annotations, Prefix+name, container); key != "" {
			return fmt.Errorf("annotation %s says how to restart, but %srestart does not say when: write %s or %s there: %w",
				key, Prefix, richrun.RestartOnFailure, richrun.RestartAlways, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

func readRestart(o *Options, v string) error {
	switch r := richrun.Restart(v); r {
	case richrun.RestartNo, richrun.RestartOnFailure, richrun.RestartAlways:
		o.Restart = r
		return nil
	}
	return fmt.Errorf("%.100q is none of %s, %s, %s", v, richrun.RestartNo, richrun.RestartOnFailure, richrun.RestartAlways)
}

func readUnitsFrom(o *Options, v string) error {
	switch {
	case !path.IsAbs(v):
		return fmt.Errorf("%.200q is not absolute, begin it with a slash", v)
	case len(v) > maxPath || strings.ContainsRune(v, 0):
		return fmt.Errorf("%.200q is no possible path", v)
	case slices.Contains(strings.Split(v, "/"), ".."):
		return fmt.Errorf("%.200q has a '..', write the path that is meant", v)
	}
	o.UnitsFrom = path.Clean(v)
	return nil
}

func duration(v string, low, high time.Duration) (time.Duration, error) {
	d, err := time.ParseDuration(v)
	if err != nil {
		return 0, fmt.Errorf(`%.100q is no duration, write as in "5s" or "500ms"`, v)
	}
	if d < low || d > high {
		return 0, fmt.Errorf("%s is out of range, give %s to %s", d, low, high)
	}
	return d, nil
}

// names takes a list apart that is joined by commas; an empty one is none.
func names(v string, check func(string) error) ([]string, error) {
	if strings.TrimSpace(v) == "" {
		return nil, nil
	}
	if n := strings.Count(v, ",") + 1; n > maxNames {
		return nil, fmt.Errorf("it lists %d names, at most %d are allowed", n, maxNames)
	}
	var out []string
	for i, name := range strings.Split(v, ",") {
		name = strings.TrimSpace(name)
		if name == "" {
			return nil, fmt.Errorf("name %d is empty, remove a comma", i+1)
		}
		if err := check(name); err != nil {
			return nil, fmt.Errorf("name %d: %w", i+1, err)
		}
		if slices.Contains(out, name) {
			return nil, fmt.Errorf("name %d, %s, stands there twice, remove one", i+1, name)
		}
		out = append(out, name)
	}
	return out, nil
}

// unitName is what systemd takes as a name (systemd.unit(5)), of the types that can be written as a file.
var unitName = regexp.MustCompile(`^[a-zA-Z0-9:_.\\@-]+\.(service|socket|target|timer|path|mount|automount|slice|swap)$`)

func checkUnitName(s string) error {
	switch {
	case !unitName.MatchString(s) || s[0] == '.':
		return fmt.Errorf("%.100q is no name of a unit, as nginx.service is one", s)
	case len(s) > maxUnitName:
		return fmt.Errorf("%.100q… has %d bytes, at most %d are allowed", s, len(s), maxUnitName)
	case strings.Contains(s, "@."):
		return fmt.Errorf("%.100q is a template, name an instance of it", s)
	case strings.HasPrefix(s, ownUnits):
		return fmt.Errorf("%.100q: names that begin with %s belong to cri-pouch", s, ownUnits)
	}
	return nil
}

// ownUnits begins the names of the units that are made here.
const ownUnits = "pouch-"

var componentName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

func checkComponentName(s string) error {
	if !componentName.MatchString(s) {
		return fmt.Errorf("%.100q is no name of a component: it may have small letters, digits and '-', at most 63", s)
	}
	return nil
}
