package cgrouptree

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
)

func writeFiles(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFiguresOfV2(t *testing.T) {
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{
		"cpu.stat":       "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\nnr_periods 20\nnr_throttled 3\nthrottled_usec 70\n",
		"memory.current": "5000\n", "memory.max": "max\n", "memory.peak": "6000\n",
		"memory.stat":         "anon 300\nfile 800\nkernel 50\nfile_mapped 60\ninactive_file 1000\nactive_file 40\npgfault 7\npgmajfault 2\n",
		"memory.swap.current": "9\n", "memory.swap.max": "max\n", "memory.events": "max 4\noom 3\noom_kill 2\n",
		"pids.current": "4\n", "pids.max": "10\n", "cgroup.procs": "11\n12\n", "below/cgroup.procs": "13\n",
		"io.stat":         "8:16 rbytes=100 wbytes=200 rios=3 wios=4 dbytes=0 dios=0\n7:0\nnonsense rbytes=1\n",
		"memory.pressure": "some avg10=1.50 avg60=0.25 avg300=0.00 total=12\nfull avg10=0.00 avg60=0.00 avg300=3.00 total=34\n",
	})
	s, err := Tree{"": dir}.Stats()
	if err != nil {
		t.Fatal(err)
	}
	want := Stats{
		CPUUsage: 1500000, CPUUser: 1000000, CPUSystem: 500000, Periods: 20, ThrottledPeriods: 3, ThrottledTime: 70000,
		MemoryUsage: 5000, WorkingSet: 4000, MemoryPeak: 6000, LimitHits: 4, RSS: 300, Cache: 800, MappedFile: 60, Kernel: 50,
		ActiveFile: 40, InactiveFile: 1000, PageFaults: 7, MajorPageFaults: 2, SwapUsage: 9, Processes: 3, Pids: 4, PidsLimit: 10,
		OOMKills: 2, Devices: []Device{{Major: 8, Minor: 16, ReadBytes: 100, WriteBytes: 200, Reads: 3, Writes: 4}},
		Memory: &Pressure{Some: Stall{1.5, 0.25, 0, 12}, Full: Stall{0, 0, 3, 34}},
	}
	if !reflect.DeepEqual(s, want) {
		t.Errorf("got  %+v\nwant %+v", s, want)
	}
}

func TestFiguresOfV1(t *testing.T) {
	dir := t.TempDir()
	tr := Tree{}
	for _, c := range []string{"cpu", "cpuacct", "memory", "pids", "blkio"} {
		tr[c] = filepath.Join(dir, c)
	}
	writeFiles(t, dir, map[string]string{
		"cpuacct/cpuacct.usage": "123456789\n", "cpuacct/cpuacct.stat": "user 7\nsystem 5\n",
		"cpu/cpu.stat":                 "nr_periods 20\nnr_throttled 3\nthrottled_time 70\n",
		"memory/memory.usage_in_bytes": "5000\n", "memory/memory.limit_in_bytes": "9223372036854771712\n", "memory/memory.max_usage_in_bytes": "6000\n",
		"memory/memory.failcnt": "4\n", "memory/memory.kmem.usage_in_bytes": "50\n", "memory/memory.memsw.usage_in_bytes": "5009\n",
		"memory/memory.stat": "cache 1\ntotal_cache 800\ntotal_rss 300\ntotal_mapped_file 60\ntotal_inactive_file 1000\ntotal_active_file 40\ntotal_pgfault 7\ntotal_pgmajfault 2\n",
		"pids/pids.current":  "4\n", "pids/pids.max": "max\n", "pids/cgroup.procs": "11\n",
		"blkio/blkio.throttle.io_service_bytes_recursive": "8:16 Read 100\n8:16 Write 200\n8:16 Sync 300\nTotal 300\n",
		"blkio/blkio.throttle.io_serviced_recursive":      "8:16 Read 3\n8:16 Write 4\nTotal 7\n",
	})
	s, err := tr.Stats()
	if err != nil {
		t.Fatal(err)
	}
	want := Stats{
		CPUUsage: 123456789, CPUUser: 70000000, CPUSystem: 50000000, Periods: 20, ThrottledPeriods: 3, ThrottledTime: 70,
		MemoryUsage: 5000, WorkingSet: 4000, MemoryPeak: 6000, LimitHits: 4, RSS: 300, Cache: 800, MappedFile: 60, Kernel: 50,
		ActiveFile: 40, InactiveFile: 1000, PageFaults: 7, MajorPageFaults: 2, SwapUsage: 9, Processes: 1, Pids: 4,
		Devices: []Device{{Major: 8, Minor: 16, ReadBytes: 100, WriteBytes: 200, Reads: 3, Writes: 4}},
	}
	if !reflect.DeepEqual(s, want) {
		t.Errorf("got  %+v\nwant %+v", s, want)
	}
}

func TestFiguresOfATreeThatIsGone(t *testing.T) {
	if _, err := (Tree{"": filepath.Join(t.TempDir(), "gone")}).Stats(); !os.IsNotExist(err) {
		t.Errorf("error is %v", err)
	}
}

func TestMembersAreThoseRightBelow(t *testing.T) {
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"cgroup.procs": "", "a/cgroup.procs": "1\n", "a/deep/cgroup.procs": "2\n", "b/cgroup.procs": ""})
	names, processes, err := Tree{"": dir}.Members()
	if err != nil || processes || !slices.Equal(names, []string{"a", "b"}) {
		t.Errorf("%v, %v, %v", names, processes, err)
	}
	writeFiles(t, dir, map[string]string{"cgroup.procs": "3\n"})
	if _, processes, err = (Tree{"": dir}).Members(); err != nil || !processes {
		t.Errorf("with a process: %v, %v", processes, err)
	}
	if _, _, err = (Tree{"": filepath.Join(dir, "gone")}).Members(); !os.IsNotExist(err) {
		t.Errorf("gone: %v", err)
	}
}

func TestMountsAreThoseWithControllers(t *testing.T) {
	v1 := func(dir, options string) *mountinfo.Info {
		return &mountinfo.Info{FSType: "cgroup", Mountpoint: dir, VFSOptions: options}
	}
	v2 := func(dir string) *mountinfo.Info {
		return &mountinfo.Info{FSType: "cgroup2", Mountpoint: dir, VFSOptions: "rw"}
	}
	for name, tc := range map[string]struct {
		mounts []*mountinfo.Info
		want   Mounts
	}{
		"v2":     {[]*mountinfo.Info{v2("/sys/fs/cgroup"), v2("/elsewhere")}, Mounts{"": "/sys/fs/cgroup"}},
		"v1":     {[]*mountinfo.Info{v1("/c/cpu,cpuacct", "rw,cpu,cpuacct"), v1("/c/memory", "rw,memory"), v1("/later", "rw,memory")}, Mounts{"cpu": "/c/cpu,cpuacct", "cpuacct": "/c/cpu,cpuacct", "memory": "/c/memory"}},
		"hybrid": {[]*mountinfo.Info{v1("/c/pids", "rw,pids"), v1("/c/systemd", "rw,xattr,name=systemd"), v2("/c/unified")}, Mounts{"pids": "/c/pids", "name=systemd": "/c/systemd"}},
		"systemd's hierarchy beside a v2 that has the controllers": {[]*mountinfo.Info{v1("/c/systemd", "rw,name=systemd"), v2("/c")}, Mounts{"": "/c"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := mountsOf(tc.mounts)
			if err != nil || !reflect.DeepEqual(got, tc.want) {
				t.Errorf("got %v, %v, want %v", got, err, tc.want)
			}
		})
	}
	if _, err := mountsOf(nil); !errdefs.IsNotFound(err) {
		t.Errorf("without any: %v", err)
	}
}

func TestV2sHierarchyIsFoundWhereContainersArePutIntoIt(t *testing.T) {
	v2 := func(dir, options string) *mountinfo.Info {
		return &mountinfo.Info{FSType: "cgroup2", Mountpoint: dir, VFSOptions: options}
	}
	for name, tc := range map[string]struct {
		mounts []*mountinfo.Info
		want   Unified
	}{
		"none":      {nil, Unified{}},
		"alone":     {[]*mountinfo.Info{v2("/elsewhere", "rw"), v2("/sys/fs/cgroup", "rw,nsdelegate,memory_recursiveprot")}, Unified{"/sys/fs/cgroup", []string{"nsdelegate", "memory_recursiveprot"}}},
		"beside v1": {[]*mountinfo.Info{{FSType: "cgroup", Mountpoint: "/sys/fs/cgroup/unified"}, v2("/sys/fs/cgroup/unified", "rw")}, Unified{"/sys/fs/cgroup/unified", []string{}}},
		"elsewhere": {[]*mountinfo.Info{v2("/mnt", "rw,nsdelegate")}, Unified{}},
	} {
		if got := unifiedOf(tc.mounts); !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s: %+v, want %+v", name, got, tc.want)
		}
	}
}

func TestATreeStandsBelowTheMounts(t *testing.T) {
	m := Mounts{"cpu": "/c/cpu", "memory": "/c/memory"}
	for path, want := range map[string][]string{
		"/kubepods/pod1": {"/c/cpu/kubepods/pod1", "/c/memory/kubepods/pod1"},
		"a/../../../b":   {"/c/cpu/b", "/c/memory/b"},
	} {
		tr, err := m.Tree(path)
		if got := []string{tr["cpu"], tr["memory"]}; err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v", path, got, err)
		}
	}
	for _, root := range []string{"", "/", "..", "/a/.."} {
		if _, err := m.Tree(root); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", root, err)
		}
	}
}
