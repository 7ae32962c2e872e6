package spec

import (
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-pouch/cri-pouch/cri/model"
)

// A volume is mounted before all that could lie in it, however deep; what would lie above it is never a mount of the request.
func TestVolumesAreMountedFirst(t *testing.T) {
	in := input(t)
	host := t.TempDir()
	in.Volumes = []Volume{
		{ContainerPath: "/srv/a/b/c/d", HostPath: host}, {ContainerPath: "/etc", HostPath: host},
		{ContainerPath: "/srv/a", HostPath: host, UIDMappings: []model.IDMapping{{ContainerID: 1, HostID: 2, Length: 3}}, GIDMappings: []model.IDMapping{{ContainerID: 4, HostID: 5, Length: 6}}},
	}
	in.Config.Mounts = append(in.Config.Mounts, model.Mount{ContainerPath: "/srv/a/b", HostPath: host, Propagation: model.PropagationPrivate})
	in.Config.Security.ReadonlyRootfs = true
	sp := build(t, testNode(), in).Spec
	order := func(at string) int {
		return slices.IndexFunc(sp.Mounts, func(m specs.Mount) bool { return m.Destination == at })
	}
	for _, before := range [][2]string{{"/etc", "/etc/hosts"}, {"/srv/a", "/srv/a/b/c/d"}, {"/srv/a", "/srv/a/b"}, {"/srv/a/b/c/d", "/proc"}, {"/etc", "/srv/a"}} {
		if a, b := order(before[0]), order(before[1]); a < 0 || b < 0 || a > b {
			t.Errorf("%s is mount %d, %s is %d", before[0], a, before[1], b)
		}
	}
	m := mountAt(sp, "/srv/a")
	if want := []string{"rbind", "rprivate", "rw"}; m.Type != "bind" || m.Source != host || !slices.Equal(m.Options, want) {
		t.Errorf("the mount is %+v: a read-only root filesystem leaves volumes writable", m)
	}
	if want := []specs.LinuxIDMapping{{ContainerID: 1, HostID: 2, Size: 3}}; !slices.Equal(m.UIDMappings, want) || len(m.GIDMappings) != 1 {
		t.Errorf("mappings are %v, %v", m.UIDMappings, m.GIDMappings)
	}
	if m := mountAt(sp, "/etc"); m.UIDMappings != nil || m.GIDMappings != nil {
		t.Errorf("a volume without mappings has %v", m.UIDMappings)
	}
}
