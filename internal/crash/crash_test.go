package crash

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
)

// newLog gives a log whose panics are counted by component.
func newLog() (*logrus.Entry, *logtest.Hook, map[string]uint64) {
	logger, seen := logtest.NewNullLogger()
	counts := map[string]uint64{}
	var mu sync.Mutex
	logger.AddHook(Counter{Count: func(component string) uint64 {
		mu.Lock()
		defer mu.Unlock()
		counts[component]++
		return counts[component]
	}})
	return logger.WithField("room", "tests"), seen, counts
}

func TestAPanicEndsItsRoutineOnly(t *testing.T) {
	log, seen, counts := newLog()
	var wg sync.WaitGroup
	wg.Go(Guard(log, "look into nothing", func() { readNil(nil) }))
	wg.Wait()
	entry := seen.LastEntry()
	if entry == nil || entry.Level != logrus.ErrorLevel || entry.Data[Field] != "look into nothing" || !strings.Contains(entry.Message, "nil pointer") {
		t.Fatalf("logged: %+v", entry)
	}
	if stack, _ := entry.Data["stack"].(string); !strings.Contains(stack, "crash.readNil") {
		t.Errorf("the stack does not name the function: %s", stack)
	}
	if counts["tests"] != 1 || len(counts) != 1 {
		t.Errorf("counted: %v", counts)
	}
	log.Error("an error is no panic")
	if counts["tests"] != 1 {
		t.Errorf("counted: %v", counts)
	}
}

//go:noinline
func readNil(p *int) int { return *p }

func TestTry(t *testing.T) {
	log, _, counts := newLog()
	failure := errors.New("an error of its own")
	if err := Try(log, "work", func() error { return failure }); err != failure {
		t.Error(err)
	}
	if err := Try(log, "work", func() error { panic("deliberate") }); !errdefs.IsInternal(err) || !strings.Contains(err.Error(), "deliberate") {
		t.Error(err)
	}
	if !Run(log, "work", func() {}) || Run(log, "work", func() { panic("deliberate") }) {
		t.Error("Run does not tell a panic")
	}
	if counts["tests"] != 2 {
		t.Errorf("counted: %v", counts)
	}
}

func TestStandingWorkBeginsAgain(t *testing.T) {
	log, _, counts := newLog()
	begun := 0
	Keep(context.Background(), log, "stand", func() {
		if begun++; begun == 1 {
			panic("deliberate")
		}
	})()
	ctx, cancel := context.WithCancel(context.Background())
	Keep(ctx, log, "stand", func() { cancel(); panic("deliberate") })()
	if begun != 2 || counts["tests"] != 2 {
		t.Errorf("begun %d times, counted %v", begun, counts)
	}
}

func TestCatchComesBeforeTheUndo(t *testing.T) {
	log, _, counts := newLog()
	undone := false
	err := func() (err error) {
		defer func() { undone = err != nil }()
		defer Catch(log, "work", &err)
		panic("deliberate")
	}()
	if !errdefs.IsInternal(err) || !undone || counts["tests"] != 1 {
		t.Errorf("%v, undone: %v, counted %v", err, undone, counts)
	}
	failure := errors.New("an error of its own")
	if err := func() (err error) { defer Catch(log, "work", &err); return failure }(); err != failure {
		t.Error(err)
	}
}
