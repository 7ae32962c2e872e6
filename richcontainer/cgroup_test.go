package richcontainer

import (
	"slices"
	"testing"
)

func TestVersionsOfSystemdAndTheNodesCgroups(t *testing.T) {
	needRoot(t)
	const forced = "SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"
	hybrid, unifiedOnly := v1, Node{PouchInit: v1.PouchInit, Unified: "/sys/fs/cgroup/unified"}
	hybrid.Unified = unifiedOnly.Unified
	type cgroup struct{ kind, source, mode, below string } // of /sys/fs/cgroup, and where name=systemd comes from
	whole := cgroup{"cgroup", "", "rw", ""}
	named := cgroup{"cgroup", "", "ro", "/sys/fs/cgroup/systemd/pods/c1"}
	beside := cgroup{"bind", "/sys/fs/cgroup/unified/pods/c1", "rw", ""}
	for name, tc := range map[string]struct {
		node    Node
		systemd string // what is in the program
		args    []string
		want    cgroup
	}{
		"247 on v1": {v1, "libsystemd-shared-247.so", nil, named}, "255 on v1": {v1, "libsystemd-core-255", nil, named},
		"an unknown one on v1": {v1, "nothing", nil, named}, "257 on v1": {v1, "libsystemd-shared-257", []string{forced}, named},
		"247 on both": {hybrid, "libsystemd-shared-247", nil, named}, "257 on both": {hybrid, "libsystemd-shared-257", []string{forced}, named},
		"258 on both": {hybrid, "libsystemd-shared-258", nil, beside}, "300 on both": {hybrid, "libsystemd-shared-300", nil, beside},
		"257 on v1 without its hierarchy": {unifiedOnly, "libsystemd-shared-257", nil, beside}, "an unknown one there": {unifiedOnly, "nothing", nil, beside},
		"247 on v2": {v2, "libsystemd-shared-247", nil, whole}, "257 on v2": {v2, "libsystemd-shared-257", nil, whole}, "258 on v2": {v2, "libsystemd-shared-258", nil, whole},
	} {
		t.Run(name, func(t *testing.T) {
			r := request(t, Systemd, rootfs(t, debian(map[string]string{"usr/lib/systemd/systemd": tc.systemd})))
			if _, err := tc.node.Prepare(r); err != nil {
				t.Fatal(err)
			}
			if want := append([]string{systemdPaths[0]}, tc.args...); !slices.Equal(r.Spec.Process.Args, want) {
				t.Errorf("pid 1 is %q", r.Spec.Process.Args)
			}
			all, at := mountOf(r.Spec, "/sys/fs/cgroup")
			below, i := mountOf(r.Spec, "/sys/fs/cgroup/systemd")
			other := map[string]string{"ro": "rw", "rw": "ro"}[tc.want.mode]
			if all.Type != tc.want.kind || all.Source != tc.want.source || !slices.Contains(all.Options, tc.want.mode) || slices.Contains(all.Options, other) {
				t.Errorf("cgroups: %+v", all)
			}
			if below.Source != tc.want.below || i >= 0 && (i != at+1 || !slices.Contains(below.Options, "rw")) {
				t.Errorf("name=systemd is mount %d: %+v", i, below)
			}
		})
	}
}
