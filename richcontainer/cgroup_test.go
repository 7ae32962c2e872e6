package richcontainer

import (
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
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

// The kubelet's memory.oom.group is the application's under every init that can make it a cgroup.
func TestTheOOMKillersGroupUnderAnInitWithoutCgroups(t *testing.T) {
	needRoot(t)
	const direct, apart = "/run/.pouch/launch", "/run/.pouch/scripts/launch"
	own := func(r *Request) {
		r.Spec.Mounts[2] = specs.Mount{Destination: cgroupFolder, Type: "bind", Source: cgroupFolder, Options: []string{"ro"}}
	}
	for name, tc := range map[string]struct {
		node           Node
		group          string
		edit           func(*Request)
		launcher, mode string
	}{
		"v2":                            {v2, "1", nil, apart, "rw"},
		"v2, not asked for":             {v2, "", nil, direct, "ro"},
		"v2, switched off":              {v2, "0", nil, direct, "ro"},
		"v1":                            {v1, "1", nil, direct, "ro"},
		"v2, the pod's own cgroups":     {v2, "1", own, direct, "ro"},
		"v2, nothing that runs scripts": {v2, "1", func(r *Request) { chmod(t, r.Rootfs+"/bin/sh", 0o600) }, direct, "ro"},
	} {
		t.Run(name, func(t *testing.T) {
			r := request(t, SbinInit, rootfs(t, map[string]string{"bin/busybox": "x", "sbin/init": "-> ../bin/busybox", "bin/sh": "x", "run/": ""}))
			r.Spec.Linux.Resources = &specs.LinuxResources{Unified: map[string]string{"memory.high": "5"}}
			if tc.group != "" {
				r.Spec.Linux.Resources.Unified[oomGroupFile] = tc.group
			}
			if tc.edit != nil {
				tc.edit(&r)
			}
			if _, err := tc.node.Prepare(r); err != nil {
				t.Fatal(err)
			}
			if got := made(t, r, inittabFile); !strings.HasSuffix(got, "::once:"+tc.launcher+"\n") {
				t.Errorf("inittab\n%s", got)
			}
			other := map[string]string{"ro": "rw", "rw": "ro"}[tc.mode]
			if m, _ := mountOf(r.Spec, cgroupFolder); !slices.Contains(m.Options, tc.mode) || slices.Contains(m.Options, other) {
				t.Errorf("cgroups: %+v", m)
			}
			if got, ok := r.Spec.Linux.Resources.Unified[oomGroupFile]; ok {
				t.Errorf("the container has the switch itself: %s", got)
			}
			if tc.launcher == apart && !strings.HasSuffix(made(t, r, "scripts/launch"), "\nexec /run/.pouch/launch\n") {
				t.Errorf("script\n%s", made(t, r, "scripts/launch"))
			}
		})
	}
}
