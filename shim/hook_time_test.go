package shim

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"

	"github.com/cri-pouch/cri-pouch/internal/hookrun"
)

// The launch of a hook has time of its own, and neither it nor the hook goes beyond what all hooks have together.
func TestTheTimeForALaunch(t *testing.T) {
	for name, tc := range map[string]struct{ timeout, all, atMost, atLeast time.Duration }{
		"a short hook":        {time.Second, time.Minute, launchLimit, launchLimit},
		"a long hook":         {30 * time.Second, time.Minute, 30 * time.Second, 30 * time.Second},
		"little time is left": {30 * time.Second, 5 * time.Second, 5 * time.Second, 4 * time.Second},
		"none is left":        {30 * time.Second, -time.Second, 0, 0},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), tc.all)
		if got := launchTime(ctx, hookrun.Hook{Timeout: tc.timeout}); got > tc.atMost || got < tc.atLeast {
			t.Errorf("%s: %s", name, got)
		}
		cancel()
	}
}

// startUntil gives a created container whose start may take until a moment.
func startUntil(t *testing.T, until time.Time, prestart ...hookrun.Hook) *container {
	t.Helper()
	bundle := t.TempDir()
	plan := hookrun.Plan{Prestart: prestart}
	if err := plan.Write(bundle); err != nil {
		t.Fatal(err)
	}
	c := newContainer(&Server{log: logrus.NewEntry(logrus.StandardLogger())}, "c", bundle)
	c.init, c.startBy = &process{gone: make(chan struct{})}, until
	c.hooks = &hooks{c: c, plan: plan}
	return c
}

func TestPrestartHooksBeyondTheTimeOfAStart(t *testing.T) {
	must, may := hookrun.Hook{Name: "must", Timeout: time.Second}, hookrun.Hook{Name: "may", Timeout: time.Second, Ignore: true}
	for name, tc := range map[string]struct {
		list    []hookrun.Hook
		wrong   string
		skipped int
	}{
		"one that must succeed fails the start": {[]hookrun.Hook{may, must, may}, `prestart hook "must" was skipped: all hooks before the program together took longer than 1m45s`, 3},
		"those that may fail do not":            {[]hookrun.Hook{may, may}, "", 2},
	} {
		t.Run(name, func(t *testing.T) {
			c := startUntil(t, time.Now().Add(-time.Second), tc.list...)
			err := c.prestart()
			if tc.wrong == "" && err != nil || tc.wrong != "" && (!errdefs.IsAborted(err) || errors.Is(err, errDestroyed) || !strings.Contains(err.Error(), tc.wrong)) {
				t.Errorf("%v, want %q", err, tc.wrong)
			}
			results, err := hookrun.ReadResults(c.bundle)
			if err != nil || len(results) != tc.skipped {
				t.Errorf("%v, %v", results, err)
			}
		})
	}
}

// A hook of the node has no more time than what is left of its container's start; one for the end has its own.
func TestNodeHooksBeyondTheTimeOfAStart(t *testing.T) {
	for _, tc := range []struct {
		stage hookrun.Stage
		left  time.Duration
		want  hookrun.Outcome
	}{
		{hookrun.Poststart, 2 * time.Second, hookrun.TimedOut},
		{hookrun.Poststart, -time.Second, hookrun.Skipped},
		{hookrun.Poststart, time.Minute, hookrun.Succeeded},
		{hookrun.Poststop, -time.Second, hookrun.Succeeded},
	} {
		c := startUntil(t, time.Now().Add(tc.left))
		h := &nodeHooks{c: c, left: hookrun.NodeStartLimit}
		seconds := "1000"
		if tc.want == hookrun.Succeeded {
			seconds = "0"
		}
		r := h.one(tc.stage, specs.Hook{Path: "/bin/sleep", Args: []string{"sleep", seconds}}, specs.State{})
		if r.Outcome != tc.want || r.Duration > time.Minute {
			t.Errorf("%s with %s left: %s", tc.stage, tc.left, r)
		}
	}
}
