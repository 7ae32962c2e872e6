package network

import (
	"os"
	"sync"
	"testing"
	"time"
)

// Each reading runs on a thread that ends with it: none may go on in a pod's namespace, and none may stay.
func TestReadingInterfacesLeavesNoThread(t *testing.T) {
	n := newNode(t)
	pod := testPod("pod1")
	n.pin(t, pod)
	own := inodeOf(t, "/proc/self/ns/net")
	threads := func() (count int, foreign []string) {
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			t.Fatal(err)
		}
		for _, task := range tasks {
			if at, err := os.Readlink("/proc/self/task/" + task.Name() + "/ns/net"); err == nil && at != readlink(t, "/proc/self/ns/net") {
				foreign = append(foreign, task.Name()+" in "+at)
			}
		}
		return len(tasks), foreign
	}
	before, _ := threads()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				if _, err := n.Interfaces(t.Context(), pod); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	// A thread that has run its last instruction is seen for a moment longer; Go keeps some for later work.
	deadline := time.Now().Add(time.Minute)
	for {
		after, foreign := threads()
		if after < before+20 && len(foreign) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d threads before 200 readings, %d after them, in the pod's namespace %v", before, after, foreign)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if now := inodeOf(t, "/proc/self/ns/net"); now != own {
		t.Errorf("the main thread was in network namespace %d and is in %d", own, now)
	}
}

func readlink(t *testing.T, path string) string {
	t.Helper()
	target, err := os.Readlink(path)
	if err != nil {
		t.Fatal(err)
	}
	return target
}
