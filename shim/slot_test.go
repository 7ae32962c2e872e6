package shim

import (
	"context"
	"sync"
	"testing"
)

func TestASlotIsLeftToOthersForAWhile(t *testing.T) {
	s := newSlots(1)
	ctx := context.Background()
	mine, err := s.acquire(ctx, "pod")
	if err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := s.acquire(gone, "pod"); err == nil {
		t.Fatal("there are two slots at once")
	}
	mine.without(func() {
		other, err := s.acquire(ctx, "pod")
		if err != nil {
			t.Fatal(err)
		}
		other.release(over())
	})
	if len(s.node) != 1 {
		t.Error("it was not taken again")
	}
	mine.release(over())
	if len(s.node) != 0 || len(s.pods) != 0 {
		t.Error("it is kept")
	}
}

// A creation that takes too long releases its slot while its hooks run: nothing waits for a slot, and none is lost.
func TestASlotThatIsReleasedMeanwhile(t *testing.T) {
	s := newSlots(1)
	var others sync.WaitGroup
	for range 100 {
		mine, err := s.acquire(context.Background(), "pod")
		if err != nil {
			t.Fatal(err)
		}
		mine.without(func() {
			other, err := s.acquire(context.Background(), "pod")
			if err != nil {
				t.Fatal(err)
			}
			others.Go(func() { mine.release(over()) })
			others.Go(func() { other.release(over()) })
		})
		others.Wait()
		if len(s.node) != 0 || len(s.pods) != 0 {
			t.Fatal("a slot is lost")
		}
	}
}

// A pod whose launches hang has used its own slots up; those of the node are for others.
func TestAPodThatHangsHasNoMoreSlots(t *testing.T) {
	s := newSlots(8)
	ctx := context.Background()
	hanging := make(chan struct{})
	for range s.forPod {
		one, err := s.acquire(ctx, "hostile")
		if err != nil {
			t.Fatal(err)
		}
		one.release(hanging) // given up, and not back
	}
	if len(s.node) != 0 {
		t.Errorf("%d slots of the node are taken by launches that hang", len(s.node))
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := s.acquire(gone, "hostile"); err == nil {
		t.Error("the pod has one more slot than a pod may have")
	}
	other, err := s.acquire(ctx, "other")
	if err != nil {
		t.Fatal(err)
	}
	other.release(over())
	close(hanging)
	for range s.forPod { // they come back
		one, err := s.acquire(ctx, "hostile")
		if err != nil {
			t.Fatal(err)
		}
		defer one.release(over())
	}
}
