package richcontainer

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/cri-pouch/cri-pouch/internal/annotation"
)

// Prefix begins the keys of all annotations that are read here.
const Prefix = "rich.cri-pouch.io/"

const (
	modeKey = Prefix + "mode"
	// modeLabel is the image's word.
	modeLabel = "io.cri-pouch.rich.mode"
	// PouchContainer's variables.
	richVariable   = "rich_mode"
	mannerVariable = "rich_mode_launch_manner"
)

// Source is where a mode can be chosen.
type Source struct {
	Container   string
	Annotations map[string]string // the pod's, or what Applying left of them
	Handler     string            // the pod's runtime handler
	Labels      map[string]string // of the image
	Env         []string          // the container's whole environment; of two of a name the later counts
	Joins       bool              // it joins another container's pid namespace, to look into it
}

// Applying gives those of a pod's annotations that say something of the named container, nil for none. Errors are
// InvalidArgument: a key that nobody knows, or a mode or option that is none.
func Applying(annotations map[string]string, container string) (map[string]string, error) {
	var out map[string]string
	for key, value := range annotations {
		option, isOurs := strings.CutPrefix(key, Prefix)
		if !isOurs {
			continue
		}
		name, of, forOne := strings.Cut(option, ".")
		if !slices.Contains(optionNames(), name) {
			return nil, fmt.Errorf("annotation %.200s is unknown, there are %s%s, each also with a dot and the name of a container: %w",
				key, Prefix, strings.Join(optionNames(), ", "+Prefix), errdefs.ErrInvalidArgument)
		}
		if forOne && of != container {
			continue
		}
		if out == nil {
			out = map[string]string{}
		}
		out[key] = value
	}
	if value, key := annotation.For(out, modeKey, container); key != "" {
		if _, err := parseMode(value, "annotation "+key, writeMode()); err != nil {
			return nil, err
		}
	}
	_, err := readOptions(out, container, Choice{Mode: Systemd}) // it knows all of them
	return out, err
}

// Choose decides the mode: the annotation for the container counts before the pod's, that before the runtime handler's
// mode, that before the image's label, that before PouchContainer's variables. A container that joins another one is plain
// unless its own annotation says otherwise. Errors are InvalidArgument and name the
// place that has to be changed.
func (n Node) Choose(s Source) (Choice, error) {
	c, err := n.mode(s)
	if err != nil {
		return c, err
	}
	c.Options, err = readOptions(s.Annotations, s.Container, c)
	return c, err
}

func (n Node) mode(s Source) (Choice, error) {
	value, key := annotation.For(s.Annotations, modeKey, s.Container)
	if s.Joins && key != modeKey+"."+s.Container {
		return Choice{Mode: None}, nil // a debug container, of which nobody was thinking
	}
	if key != "" {
		return parseMode(value, "annotation "+key, writeMode())
	}
	if m, ok := n.Handlers[s.Handler]; ok && s.Handler != "" {
		return Choice{Mode: m, By: fmt.Sprintf("runtime handler %q by rich.handlers of the node's configuration", s.Handler)}, nil
	}
	override := fmt.Sprintf("build the image anew with one of %s, or annotate the pod with %s.%s", list(Modes()), modeKey, s.Container)
	if value, ok := s.Labels[modeLabel]; ok {
		return parseMode(value, "label "+modeLabel+" of the image", override)
	}
	return pouchMode(s)
}

// pouchMode reads the variables that a patched runc read for PouchContainer; dumb-init was its default.
func pouchMode(s Source) (Choice, error) {
	switch rich := variable(s.Env, richVariable); rich {
	case "", "false":
		return Choice{Mode: None}, nil
	case "true":
	default:
		return Choice{}, fmt.Errorf("variable %s of container %q is %.100q: write true or false, or annotate the pod with %s.%s: %w",
			richVariable, s.Container, rich, modeKey, s.Container, errdefs.ErrInvalidArgument)
	}
	manner := variable(s.Env, mannerVariable)
	if manner == "" {
		manner = string(DumbInit)
	}
	c, err := parseMode(manner, "variable "+mannerVariable, writeMode())
	if err == nil {
		c.By = fmt.Sprintf("variables %s=true, %s=%s", richVariable, mannerVariable, manner)
	}
	return c, err
}

func writeMode() string { return "write one of " + list(Modes()) }

func parseMode(value, by, fix string) (Choice, error) {
	if !slices.Contains(Modes(), value) {
		return Choice{}, fmt.Errorf("%s: %.100q is no mode of a rich container, %s: %w", by, value, fix, errdefs.ErrInvalidArgument)
	}
	return Choice{Mode: Mode(value), By: by}, nil
}

func variable(env []string, name string) (value string) {
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, name+"="); ok {
			value = v
		}
	}
	return value
}
