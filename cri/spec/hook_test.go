package spec

import "testing"

// The hooks' cgroup lies beside the container's, with either driver, and belongs to the container.
func TestTheCgroupOfPoststopHooks(t *testing.T) {
	for have, want := range map[string]struct{ path, name string }{
		"/kubepods/pod1/c1":           {"/kubepods/pod1/c1-poststop", "c1-poststop"},
		"kubepods.slice:cri-pouch:c1": {"kubepods.slice:cri-pouch:c1-poststop", "cri-pouch-c1-poststop.scope"},
	} {
		if got := PoststopCgroup(have); got != want.path {
			t.Errorf("%s: got %s", have, got)
		}
		if got := CgroupOwner(want.name); got != "c1" {
			t.Errorf("%s belongs to %s", want.name, got)
		}
	}
	for _, name := range []string{"c1", "cri-pouch-c1.scope"} {
		if got := CgroupOwner(name); got != "c1" {
			t.Errorf("%s belongs to %s", name, got)
		}
	}
}
