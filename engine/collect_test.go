package engine

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
)

// Containers are created while images are unpacked and garbage is collected: none of them waits for another one that waits for
// it. Without the lock of collections all three stand still within a second, and with them every write of the daemon.
func TestCollectionsLetCreationsAndUnpackingGoOn(t *testing.T) {
	e := open(t, t.TempDir())
	ctx := e.With(context.Background())
	if err := e.StartCollecting(ctx); err != nil {
		t.Fatal(err)
	}
	pull, err := e.Leases.Create(ctx, leases.WithID("pull"))
	if err != nil {
		t.Fatal(err)
	}
	pulling := leases.WithLease(ctx, pull.ID)
	stop := make(chan struct{})
	var work sync.WaitGroup
	begin := func(step func(n int) error) {
		work.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if err := step(n); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	begin(func(int) error { return e.Collect(ctx) })
	for i := range 4 {
		begin(func(n int) error { // an unpacking, outside of a transaction
			key := fmt.Sprintf("%s%d-%d", leftoverPrefix, i, n)
			if _, err := e.Snapshots.Prepare(pulling, key, ""); err != nil {
				return err
			}
			return e.Snapshots.Remove(pulling, key)
		})
	}
	// An end of the test would wait for the collection, and say nothing of who waits for whom.
	defer time.AfterFunc(2*time.Minute, func() { panic("creations, unpacking and collections wait for each other") }).Stop()
	var creating sync.WaitGroup
	for c := range 4 {
		creating.Go(func() {
			for n := range 50 {
				if err := create(ctx, e, fmt.Sprintf("container-%d-%d", c, n)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	creating.Wait()
	close(stop)
	work.Wait()
}
