package shim

import (
	"slices"
	"testing"

	"github.com/cri-pouch/cri-pouch/internal/shimstate"
)

func TestParentsComeBeforeTheirChildren(t *testing.T) {
	at := func(parent, session int) shimstate.Stat {
		return shimstate.Stat{Parent: parent, Session: session, StartTime: 7}
	}
	// 10 is the leader, 11 to 13 a line of descendants, 14 a child of 12 with a session of its own, 15 its child, 16 an orphan
	// of the session with a child 17; 1, 20 and 21 are the container's.
	all := map[int]shimstate.Stat{
		1: at(0, 1), 20: at(1, 20), 21: at(20, 20),
		10: at(0, 10), 11: at(10, 10), 12: at(11, 10), 13: at(12, 10), 14: at(12, 14), 15: at(14, 14), 16: at(1, 10), 17: at(16, 10),
	}
	for range 50 { // a map has another order each time
		got := parentsFirst(10, 7, all, nil)
		if sorted := slices.Sorted(slices.Values(got)); !slices.Equal(sorted, []int{10, 11, 12, 13, 14, 15, 16, 17}) || got[0] != 10 {
			t.Fatalf("%v", got)
		}
		for pid, st := range all {
			if child, parent := slices.Index(got, pid), slices.Index(got, st.Parent); child >= 0 && parent > child {
				t.Fatalf("%d comes before its parent %d: %v", pid, st.Parent, got)
			}
		}
	}
	hit := map[int]bool{10: true, 12: true}
	without := map[int]shimstate.Stat{1: all[1], 11: at(1, 10), 13: at(12, 10), 14: at(12, 14), 15: all[15], 20: all[20]}
	if got := slices.Sorted(slices.Values(parentsFirst(10, 7, without, hit))); !slices.Equal(got, []int{11, 13, 14, 15}) {
		t.Errorf("after the first round: %v", got)
	}
	if got := parentsFirst(10, 6, all, nil); got != nil {
		t.Errorf("the leader's pid is somebody else's: %v", got)
	}
	if got := parentsFirst(99, 7, all, nil); got != nil {
		t.Errorf("nobody is left: %v", got)
	}
}
