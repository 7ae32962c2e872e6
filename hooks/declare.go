package hooks

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cri-pouch/cri-pouch/internal/annotation"
	"github.com/cri-pouch/cri-pouch/internal/hookrun"
)

// Prefix begins the keys of all annotations that are read here.
const Prefix = "hooks.cri-pouch.io/"

// How long the hooks of one stage may take, all together. The timeouts of prestart hooks must stay below the limit.
const (
	PrestartLimit = hookrun.PrestartLimit
	PoststopLimit = hookrun.PoststopLimit
)

// DefaultTimeout is that of a hook that gives none, where the node allows so much.
const DefaultTimeout = 30 * time.Second

// Hook is one declared hook.
type Hook struct {
	Name    string
	Exec    []string
	Env     []string // NAME=value, sorted by name
	Timeout time.Duration
	// Ignore says that a failure changes nothing for the container.
	Ignore bool
	// User is as the author wrote it: UID, UID:GID, or names; empty: the container's.
	User         string
	Capabilities []string // beside those of the container's program: CAP_…
	Log          bool     // the output goes to the container's log too
}

// List are the hooks of one stage, in their order, and who declared them.
type List struct {
	Hooks []Hook
	By    string // "annotation hooks.cri-pouch.io/prestart", for messages; empty: nobody
}

// Declared are a container's hooks.
type Declared struct{ Prestart, Poststop List }

// None says that there are no hooks at all.
func (d Declared) None() bool { return len(d.Prestart.Hooks)+len(d.Poststop.Hooks) == 0 }

// Stage gives the hooks of one stage.
func (d Declared) Stage(s hookrun.Stage) List {
	if s == hookrun.Prestart {
		return d.Prestart
	}
	return d.Poststop
}

// Stages are both, in the order in which they come.
func Stages() []hookrun.Stage { return []hookrun.Stage{hookrun.Prestart, hookrun.Poststop} }

// Rules are what the node's administrator has settled. The zero value allows what is every container's own.
type Rules struct {
	// MaxTimeout bounds the timeout of each hook; 0: only the stage's limit does.
	MaxTimeout time.Duration
	Grants     []Grant
}

// Applying gives those of a pod's annotations that declare hooks of the named container, nil for none. An unknown key is
// InvalidArgument, whoever it is for: a misspelt one would be a hook that never runs.
func Applying(annotations map[string]string, container string) (map[string]string, error) {
	var out map[string]string
	for key := range annotations {
		option, isOurs := strings.CutPrefix(key, Prefix)
		if !isOurs {
			continue
		}
		stage, of, forOne := strings.Cut(option, ".")
		if !slices.Contains(Stages(), hookrun.Stage(stage)) || forOne && of == "" {
			return nil, fmt.Errorf("annotation %.200s is unknown, there are %s%s and %s%s, each also with a dot and the name of a container: %w",
				key, Prefix, hookrun.Prestart, Prefix, hookrun.Poststop, errdefs.ErrInvalidArgument)
		}
	}
	for _, stage := range Stages() {
		value, key := annotation.For(annotations, Prefix+string(stage), container)
		if key == "" {
			continue
		}
		if out == nil {
			out = map[string]string{}
		}
		out[key] = value
	}
	return out, nil
}

// Read reads a container's hooks from a pod's annotations, or from what Applying left of them. Errors are InvalidArgument and
// name the annotation, the place in it, and the fix.
func (r Rules) Read(annotations map[string]string, container string) (Declared, error) {
	var d Declared
	for _, stage := range Stages() {
		value, key := annotation.For(annotations, Prefix+string(stage), container)
		if key == "" {
			continue
		}
		found, err := r.parse(value)
		if err == nil {
			err = r.checkSum(stage, found)
		}
		if err != nil {
			return Declared{}, fmt.Errorf("annotation %s: %w: %w", key, err, errdefs.ErrInvalidArgument)
		}
		list := List{Hooks: found, By: "annotation " + key}
		if stage == hookrun.Prestart {
			d.Prestart = list
		} else {
			d.Poststop = list
		}
	}
	return d, nil
}

// Names gives the names of a stage's hooks without any check of a node's limits: they were checked when the container was
// created, and the limits may have changed since.
func Names(annotations map[string]string, container string, stage hookrun.Stage) []string {
	value, key := annotation.For(annotations, Prefix+string(stage), container)
	if key == "" {
		return nil
	}
	found, err := Rules{}.parse(value)
	if err != nil {
		return nil
	}
	var names []string
	for _, h := range found {
		names = append(names, h.Name)
	}
	return names
}

// checkSum bounds what a stage can take in all.
func (r Rules) checkSum(stage hookrun.Stage, list []Hook) error {
	limit, most := PoststopLimit, "may take"
	if stage == hookrun.Prestart {
		limit, most = PrestartLimit, "must take less than"
	}
	var sum time.Duration
	for _, h := range list {
		sum += h.Timeout // bounded each, so that it cannot overflow
	}
	if sum > limit || sum == limit && stage == hookrun.Prestart {
		return fmt.Errorf("the timeouts of the %d hooks add up to %s, the %s hooks of a container %s %s in all: give shorter ones (a hook without one has %s)",
			len(list), sum, stage, most, limit, r.defaultTimeout())
	}
	return nil
}

// maxTimeout is the greatest timeout of one hook, and why.
func (r Rules) maxTimeout() (time.Duration, string) {
	if r.MaxTimeout > 0 && r.MaxTimeout < PrestartLimit {
		return r.MaxTimeout, "the node's limit hooks.max_timeout"
	}
	return PrestartLimit, "the limit"
}

func (r Rules) defaultTimeout() time.Duration {
	limit, _ := r.maxTimeout()
	return min(DefaultTimeout, limit)
}
