package hooks

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-pouch/cri-pouch/internal/hookrun"
)

// NodeSubject is a container as the conditions of the node's hooks see it.
type NodeSubject struct {
	// Annotations are the pod's and the container's.
	Annotations map[string]string
	// Commands are the program of the container's first process and, in a rich container, that of its application.
	Commands []string
	// BindMounts says that the request has mounts of the node's files or folders.
	BindMounts bool
}

// NodeSelection is what the node's hooks come to for one container.
type NodeSelection struct {
	Hooks *specs.Hooks // nil: none
	// Files are the names of the files that the hooks are from, in the order of each stage's list.
	Files map[hookrun.Stage][]string
}

// take checks and compiles the conditions.
func (w *NodeWhen) take(j nodeJSON) error {
	w.Always, w.HasBindMounts, w.Commands = j.When.Always, j.When.HasBindMounts, j.When.Commands
	switch {
	case j.When.Annotations != nil && len(j.When.Annotations) == 0:
		return errors.New("when.annotations is empty, leave it out or give one")
	case j.When.Commands != nil && len(j.When.Commands) == 0:
		return errors.New("when.commands is empty, leave it out or give one")
	case w.Always == nil && w.HasBindMounts == nil && j.When.Annotations == nil && j.When.Commands == nil:
		return errors.New(`when has no condition, write {"always": true} for all containers`)
	case len(j.When.Annotations) > nodePatterns || len(j.When.Commands) > nodePatterns:
		return fmt.Errorf("when has more than %d patterns of one kind", nodePatterns)
	}
	for i, pattern := range w.Commands {
		re, err := compile(pattern)
		if err != nil {
			return fmt.Errorf("when.commands[%d]: %w", i, err)
		}
		w.commands = append(w.commands, re)
	}
	for _, key := range slices.Sorted(maps.Keys(j.When.Annotations)) {
		p := NodePair{Key: key, Value: j.When.Annotations[key]}
		var err error
		if p.key, err = compile(p.Key); err != nil {
			return fmt.Errorf("when.annotations: key: %w", err)
		}
		if p.value, err = compile(p.Value); err != nil {
			return fmt.Errorf("when.annotations: value of %.100q: %w", p.Key, err)
		}
		w.Annotations = append(w.Annotations, p)
	}
	return nil
}

// compile takes POSIX extended regular expressions, and what Go's syntax has beyond them: files that were written for other
// runtimes use it. Its time is linear in the text, whatever the pattern.
func compile(pattern string) (*regexp.Regexp, error) {
	if len(pattern) > nodePattern {
		return nil, fmt.Errorf("the pattern has more than %d bytes", nodePattern)
	}
	re, err := regexp.Compile(pattern)
	if err != nil {
		return nil, fmt.Errorf("%.200q is no regular expression: %w", pattern, err)
	}
	return re, nil
}

// matches says whether all conditions that are given hold. One that is given as false never does.
func (w NodeWhen) matches(s NodeSubject) bool {
	if w.Always != nil && !*w.Always {
		return false
	}
	if w.HasBindMounts != nil && (!*w.HasBindMounts || !s.BindMounts) {
		return false
	}
	if w.commands != nil && !slices.ContainsFunc(w.commands, func(re *regexp.Regexp) bool { return slices.ContainsFunc(s.Commands, re.MatchString) }) {
		return false
	}
	for _, p := range w.Annotations {
		if !p.matches(s.Annotations) {
			return false
		}
	}
	return true
}

// matches says whether there is an annotation whose key and value both match.
func (p NodePair) matches(annotations map[string]string) bool {
	for key, value := range annotations {
		if p.key.MatchString(key) && p.value.MatchString(value) {
			return true
		}
	}
	return false
}

// add puts the hook of a file into the lists of its stages.
func (s *NodeSelection) add(f NodeFile) {
	if s.Hooks == nil {
		s.Hooks, s.Files = &specs.Hooks{}, map[hookrun.Stage][]string{}
	}
	for _, stage := range f.Stages {
		list := hookrun.StageOf(s.Hooks, stage)
		*list = append(*list, f.Hook)
		s.Files[stage] = append(s.Files[stage], f.Name())
	}
}
