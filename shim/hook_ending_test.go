package shim

import (
	"os/exec"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/cri-pouch/cri-pouch/internal/hookrun"
	"github.com/cri-pouch/cri-pouch/internal/pidfd"
	"github.com/cri-pouch/cri-pouch/internal/richrun"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

// A successor waits for hooks from the moment on at which the program has ended, not from when the first one begins.
func TestAContainerIsEndingOnceItsProgramHasEnded(t *testing.T) {
	started := time.Now()
	for name, tc := range map[string]struct {
		program []string
		hooks   *hooks
		rich    *rich
		started time.Time
		want    bool
	}{
		"it runs":               {[]string{"sleep", "1000"}, &hooks{plan: hookrun.Plan{Poststop: []hookrun.Hook{{}}}}, nil, started, false},
		"it has ended":          {[]string{"true"}, &hooks{plan: hookrun.Plan{Poststop: []hookrun.Hook{{}}}}, nil, started, true},
		"its init shuts down":   {[]string{"sleep", "1000"}, &hooks{plan: hookrun.Plan{Poststop: []hookrun.Hook{{}}}}, &rich{progress: richrun.Progress{Because: richrun.ApplicationEnded}}, started, true},
		"there are no hooks":    {[]string{"true"}, nil, nil, started, false},
		"none for the end":      {[]string{"true"}, &hooks{plan: hookrun.Plan{Prestart: []hookrun.Hook{{}}}}, nil, started, false},
		"its program never ran": {[]string{"true"}, &hooks{plan: hookrun.Plan{Poststop: []hookrun.Hook{{}}}}, nil, time.Time{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			program := exec.Command(tc.program[0], tc.program[1:]...)
			if err := program.Start(); err != nil {
				t.Fatal(err)
			}
			fd, err := pidfd.Open(program.Process.Pid)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				_ = program.Process.Kill()
				_ = program.Wait()
				_ = fd.Close()
			}()
			if tc.program[0] == "true" {
				if err := fd.Wait(); err != nil {
					t.Fatal(err)
				}
			}
			c := newContainer(&Server{log: logrus.NewEntry(logrus.StandardLogger())}, "c", t.TempDir())
			c.init, c.hooks, c.rich, c.startedAt, c.status = &process{pid: program.Process.Pid, fd: fd}, tc.hooks, tc.rich, tc.started, task.Running
			if got := c.info(); got.Ending != tc.want || got.Pid == 0 {
				t.Errorf("it is %v", got)
			}
		})
	}
}
