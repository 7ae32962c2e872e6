package cri

import (
	"fmt"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/cri-pouch/cri-pouch/cri/model"
	"github.com/cri-pouch/cri-pouch/hooks"
	"github.com/cri-pouch/cri-pouch/internal/failpoint"
	"github.com/cri-pouch/cri-pouch/internal/hookrun"
	"github.com/cri-pouch/cri-pouch/internal/journal"
)

// Bounds of what an ended container's record keeps of its hooks, in bytes.
const (
	maxHookOutput  = 64 << 10 // of all
	fairHookOutput = 1 << 10  // of each, where all have more
	maxEndMessage  = 4 << 10
)

// hookMetrics are the figures of hooks, for Prometheus.
type hookMetrics struct {
	duration *prometheus.HistogramVec
	failures *prometheus.CounterVec
}

// newHookMetrics registers them with r; nil: nowhere.
func newHookMetrics(r prometheus.Registerer) *hookMetrics {
	m := &hookMetrics{
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "cri_pouch_hook_duration_seconds", Help: "How long hooks ran, by stage.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 90},
		}, []string{"stage"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "cri_pouch_hook_failures_total", Help: "Hooks that failed, timed out or were skipped, by stage.",
		}, []string{"stage"}),
	}
	for _, stage := range hooks.Stages() {
		m.duration.WithLabelValues(string(stage))
		m.failures.WithLabelValues(string(stage)) // a rate needs the zero
	}
	if r != nil {
		r.MustRegister(m.duration, m.failures)
	}
	return m
}

func (m *hookMetrics) count(r hookrun.Result) {
	if r.Outcome != hookrun.Skipped {
		m.duration.WithLabelValues(string(r.Stage)).Observe(r.Duration.Seconds())
	}
	if r.Outcome != hookrun.Succeeded {
		m.failures.WithLabelValues(string(r.Stage)).Inc()
	}
}

// hookResults gives what became of a container's hooks so far.
func (s *Service) hookResults(rec model.Container) []hookrun.Result {
	if rec.End != nil {
		return rec.End.Hooks
	}
	if !hooked(rec) {
		return nil
	}
	results, err := hookrun.ReadResults(s.bundleDir(rec.ID))
	if err != nil {
		s.Log.WithField("container", rec.ID).WithError(err).Warn("cannot read what became of the container's hooks")
	}
	return results
}

// hookEnd adds to a container's end what became of its hooks, before those that it has already, and in words where they did not
// succeed.
func (s *Service) hookEnd(rec model.Container, end *model.End) {
	if !hooked(rec) {
		return
	}
	end.Hooks = slices.Concat(s.hookResults(rec), end.Hooks)
	said := []string{end.Message}
	for _, r := range end.Hooks {
		// What made the start fail is its error already.
		if r.Outcome != hookrun.Succeeded && (r.Ignored || end.Reason != reasonStartError) {
			said = append(said, r.String())
		}
	}
	end.Message = bounded(joined(said...), maxEndMessage)
	end.Hooks = fit(end.Hooks)
}

// joined makes one message of those that say something.
func joined(messages ...string) string {
	return strings.Join(slices.DeleteFunc(messages, func(m string) bool { return m == "" }), "; ")
}

// skippedHooks are the poststop hooks of a lost container that nobody can have run to their end.
func (s *Service) skippedHooks(rec model.Container, why string) []hookrun.Result {
	if !hooked(rec) {
		return nil
	}
	have := s.hookResults(rec)
	var out []hookrun.Result
	for _, name := range hooks.Names(rec.Config.HookAnnotations, rec.Config.Name, hookrun.Poststop) {
		if !slices.ContainsFunc(have, func(r hookrun.Result) bool { return r.Stage == hookrun.Poststop && r.Name == name }) {
			out = append(out, hookrun.Result{Stage: hookrun.Poststop, Name: name, Outcome: hookrun.Skipped, Message: why})
		}
	}
	return out
}

// fit bounds what a record keeps: the outputs are the pod's author's.
func fit(results []hookrun.Result) []hookrun.Result {
	sum := 0
	for _, r := range results {
		sum += len(r.Output)
	}
	if sum <= maxHookOutput {
		return results
	}
	out := slices.Clone(results)
	for i := range out {
		if over := len(out[i].Output) - fairHookOutput; over > 0 {
			out[i].Output = strings.ToValidUTF8(out[i].Output[over:], "")
		}
	}
	return out
}

// hookKey begins the journal's message about a hook, and tells it from the container's others.
func hookKey(r hookrun.Result) string { return fmt.Sprintf("%s hook %q ", r.Stage, r.Name) }

// hookKeyOf gives the key of a message that was written for a hook.
func hookKeyOf(message string) string {
	head, rest, _ := strings.Cut(message, `"`)
	name, _, _ := strings.Cut(rest, `"`)
	return head + `"` + name + `" `
}

// tellHooks tells what became of hooks, each once. c.telling is held.
func (s *Service) tellHooks(c *container, results []hookrun.Result) {
	for _, r := range results {
		if c.hooksTold[hookKey(r)] {
			continue
		}
		if c.hooksTold == nil {
			c.hooksTold = map[string]bool{}
		}
		c.hooksTold[hookKey(r)] = true
		s.hookFigures.count(r)
		e := journal.Entry{Kind: journal.Hook, Reason: string(r.Outcome), Message: r.String()}
		if !r.StartedAt.IsZero() {
			e.Time = r.StartedAt.Add(r.Duration)
		}
		if r.Outcome == hookrun.Succeeded || r.Outcome == hookrun.Failed {
			code := int32(r.ExitCode)
			e.ExitCode = &code
		}
		s.note(c, e)
		failpoint.Hit("container.hook-told")
	}
}

// prestartOnly leaves the results that there are before the program runs.
func prestartOnly(results []hookrun.Result) []hookrun.Result {
	return slices.DeleteFunc(slices.Clone(results), func(r hookrun.Result) bool { return r.Stage != hookrun.Prestart })
}
