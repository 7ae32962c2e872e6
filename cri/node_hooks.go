package cri

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/cri-pouch/cri-pouch/cri/model"
	"github.com/cri-pouch/cri-pouch/cri/spec"
	"github.com/cri-pouch/cri-pouch/hooks"
	"github.com/cri-pouch/cri-pouch/internal/hookrun"
	"github.com/cri-pouch/cri-pouch/internal/journal"
)

// addNodeHooks puts the node's hooks that concern a container into its specification. What they match is what the container
// will be: in a rich one both the init and the application count as its command.
func (s *Service) addNodeHooks(rec model.Container, pod map[string]string, out spec.Output) error {
	if s.NodeHooks == nil {
		return nil
	}
	annotations := maps.Clone(pod)
	if annotations == nil {
		annotations = map[string]string{}
	}
	maps.Copy(annotations, rec.Config.Annotations)
	subject := hooks.NodeSubject{Annotations: annotations, BindMounts: hasBindMounts(rec.Config)}
	for _, argv := range [][]string{out.Spec.Process.Args, out.Argv} {
		if len(argv) > 0 && !slices.Contains(subject.Commands, argv[0]) {
			subject.Commands = append(subject.Commands, argv[0])
		}
	}
	chosen := s.NodeHooks.Select(subject)
	if chosen.Hooks == nil {
		return nil
	}
	plan := hookrun.NodePlan{Files: chosen.Files, Annotations: annotations}
	if len(chosen.Hooks.CreateContainer) > 0 {
		// What enters a container's namespaces is seen there, in /proc of a shared pid
		// namespace for instance.
		var err error
		if plan.PouchInit, err = s.PouchInit.Seal(s.bundleDir(rec.ID)); err != nil {
			return fmt.Errorf("what runs the node's hooks of container %s: %w", rec.ID, err)
		}
	}
	if err := plan.Write(s.bundleDir(rec.ID)); err != nil {
		return err
	}
	out.Spec.Hooks = chosen.Hooks
	return s.writeSpec(rec.ID, out.Spec)
}

// hasBindMounts says whether the request mounts anything of the node's into the container. Volumes that the image declares
// are not asked for by it.
func hasBindMounts(c model.ContainerConfig) bool {
	return slices.ContainsFunc(c.Mounts, func(m model.Mount) bool { return m.HostPath != "" })
}

func newNodeHookFailures(r prometheus.Registerer) *prometheus.CounterVec {
	failures := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "cri_pouch_node_hook_failures_total", Help: "Hooks of the node that did not succeed, by stage.",
	}, []string{"stage"})
	for _, stage := range hooks.NodeStages() {
		failures.WithLabelValues(string(stage)) // a rate needs the zero
	}
	if r != nil {
		r.MustRegister(failures)
	}
	return failures
}

// noteNodeHooks tells of the node's hooks of a container that did not succeed, each once: those that have run so far.
func (s *Service) noteNodeHooks(c *container) {
	results, err := hookrun.ReadNodeResults(s.bundleDir(c.id))
	log := s.Log.WithField("pod", c.sandboxID).WithField("container", c.id)
	if err != nil {
		log.WithError(err).Warn("what became of the node's hooks is not known")
	}
	c.telling.Lock()
	defer c.telling.Unlock()
	for _, r := range results {
		at := r.StartedAt.Add(r.Duration)
		if r.Outcome == hookrun.Succeeded || c.hooksTold[nodeHookKey(at)] || !at.After(c.toldUntil) {
			continue
		}
		if c.hooksTold == nil {
			c.hooksTold = map[string]bool{}
		}
		c.hooksTold[nodeHookKey(at)] = true
		s.nodeFailures.WithLabelValues(string(r.Stage)).Inc()
		log.Warnf("the node's %s", r)
		s.note(c, journal.Entry{Kind: journal.Hook, Time: at, Reason: string(r.Outcome), Message: "the node's " + r.String()})
	}
}

// nodeHookKey tells the hooks of the node for one container from each other, by when they ended: a start that was cut off runs
// them again.
func nodeHookKey(at time.Time) string { return at.UTC().Format(time.RFC3339Nano) }

// poststartEnd says which hook of the node ended the container's program after its start, if one did. Who asked for the start
// has it in the error; the container's message needs it where that daemon has died.
func (s *Service) poststartEnd(c *container) string {
	results, _ := hookrun.ReadNodeResults(s.bundleDir(c.id)) // noteNodeHooks tells of the error
	for _, r := range results {
		if r.Stage == hookrun.Poststart && r.Outcome != hookrun.Succeeded {
			return "the node's " + r.String()
		}
	}
	return ""
}
