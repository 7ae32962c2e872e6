package engine

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"
)

// A collection reads the metadata database while a transaction that made a snapshot is not committed: the snapshot must
// not be taken for garbage. Without the guard of fresh.go some of these folders are gone within a second.
func TestACollectionSparesWhatIsJustBeingMade(t *testing.T) {
	e := open(t, t.TempDir())
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := e.StartCollecting(ctx); err != nil {
		t.Fatal(err)
	}
	made := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { // garbage, so that each collection looks at the snapshotter too
		for n := 0; ; n++ {
			select {
			case <-made:
				return
			default:
			}
			key := fmt.Sprintf("garbage-%d", n)
			if _, err := e.Snapshots.Prepare(e.With(ctx), key, ""); err != nil {
				t.Error(err)
				return
			}
			if err := e.Snapshots.Remove(e.With(ctx), key); err != nil {
				t.Error(err)
				return
			}
			if err := e.Collect(ctx); err != nil {
				t.Error(err)
				return
			}
		}
	})
	const creators, each = 4, 100
	var creating sync.WaitGroup
	for c := range creators {
		creating.Go(func() {
			for n := range each {
				if err := create(ctx, e, fmt.Sprintf("container-%d-%d", c, n)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	creating.Wait()
	close(made)
	wg.Wait()
	if err := e.Collect(ctx); err != nil {
		t.Fatal(err)
	}
	for c := range creators {
		for n := range each {
			dir, _, err := e.UpperDir(e.With(ctx), fmt.Sprintf("container-%d-%d", c, n))
			if err != nil {
				t.Error(err)
				continue
			}
			if _, err := os.Stat(dir); err != nil {
				t.Errorf("a collection took it: %v", err)
			}
		}
	}
	if held := len(e.backend.fresh.keys); held != 0 {
		t.Errorf("%d keys are still spared after a collection", held)
	}
}
