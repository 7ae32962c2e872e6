package shim

import (
	"context"
	"errors"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/sirupsen/logrus"

	"github.com/cri-pouch/cri-pouch/shim/task"
)

// Whoever wants a start to end either ends it before its program runs, or is told that it runs: never both.
func TestAStartIsGivenUpOnlyBeforeItsProgram(t *testing.T) {
	fresh := func() *container {
		return newContainer(&Server{log: logrus.NewEntry(logrus.StandardLogger())}, "c", t.TempDir())
	}
	t.Run("before", func(t *testing.T) {
		c := fresh()
		if !c.giveUp() || c.life.Err() == nil || !c.silent {
			t.Error("the start goes on")
		}
		if err := c.commit(); !errors.Is(err, errDestroyed) {
			t.Errorf("the program would run: %v", err)
		}
		if !c.giveUp() {
			t.Error("it cannot be asked for again")
		}
	})
	t.Run("after", func(t *testing.T) {
		c := fresh()
		if err := c.commit(); err != nil {
			t.Fatal(err)
		}
		c.status = task.Running
		if err := c.delete(context.Background()); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("it was deleted: %v", err)
		}
		if c.life.Err() != nil || c.silent {
			t.Error("it is doomed")
		}
	})
	t.Run("in between", func(t *testing.T) {
		c := fresh()
		if err := c.commit(); err != nil {
			t.Fatal(err)
		}
		if c.giveUp() || c.life.Err() != nil {
			t.Error("it was given up")
		}
	})
	t.Run("after a start that failed", func(t *testing.T) {
		c := fresh()
		settle, err := c.begin(context.Background())
		if err == nil {
			err = c.commit()
		}
		if err != nil {
			t.Fatal(err)
		}
		settle(errors.New("the init died"))
		if !c.giveUp() {
			t.Error("it cannot be deleted")
		}
	})
}
