package cri

import (
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/cri-pouch/cri-pouch/cri/model"
	"github.com/cri-pouch/cri-pouch/cri/spec"
	"github.com/cri-pouch/cri-pouch/internal/cgrouptree"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

// readCgroup reads the pod's cgroup, which is the parent that CRI names for its containers. It says no where that does not
// tell the pod's use: none is named, it is gone, or others are in it too, as with crictl, whose pods may share a parent.
func (s *Service) readCgroup(rec model.Sandbox) (task.Stats, bool, error) {
	if s.Cgroups == nil || rec.Config.CgroupParent == "" {
		return task.Stats{}, false, nil
	}
	tree, err := s.Cgroups.Tree(s.cgroupDir(rec))
	if err != nil {
		return task.Stats{}, false, nil // the root is not the pod's
	}
	members, processes, err := tree.Members()
	if err == nil && (processes || slices.ContainsFunc(members, func(name string) bool { return !s.isOf(rec.Config.UID, name) })) {
		return task.Stats{}, false, nil
	}
	var st cgrouptree.Stats
	if err == nil {
		st, err = tree.Stats()
	}
	if errors.Is(err, fs.ErrNotExist) {
		return task.Stats{}, false, nil
	}
	return cgroupStats(st), err == nil, err
}

// isOf says whether a cgroup's name (see spec.Builder) is that of a container or a holder of the pod. A pod whose sandbox was
// made anew may still have containers of the one before.
func (s *Service) isOf(uid, name string) bool {
	sandboxID := spec.CgroupOwner(name)
	if c, err := s.index.container(sandboxID); err == nil {
		sandboxID = c.sandboxID
	}
	sb, err := s.index.sandbox(sandboxID)
	return err == nil && sb.record().Config.UID == uid
}

// cgroupDir gives the folder of the pod's cgroup parent. With systemd the name of a slice tells which slices it lies in,
// whether they are written out before it or not (systemd.slice(5)).
func (s *Service) cgroupDir(rec model.Sandbox) string {
	parent := path.Clean("/" + rec.Config.CgroupParent)
	if !s.SystemdCgroup {
		return parent
	}
	dir, steps := "/", strings.Split(strings.TrimSuffix(path.Base(parent), ".slice"), "-")
	for i := range steps {
		dir = path.Join(dir, strings.Join(steps[:i+1], "-")+".slice")
	}
	return dir
}

func cgroupStats(st cgrouptree.Stats) task.Stats {
	return task.Stats{
		Time: time.Now(), CPUUsage: st.CPUUsage, CPUUser: st.CPUUser, CPUSystem: st.CPUSystem,
		CPUPeriods: st.Periods, CPUThrottledPeriods: st.ThrottledPeriods, CPUThrottledTime: st.ThrottledTime,
		MemoryUsage: st.MemoryUsage, MemoryWorkingSet: st.WorkingSet, MemoryLimit: st.MemoryLimit, MemoryPeak: st.MemoryPeak,
		MemoryLimitHits: st.LimitHits, MemoryRSS: st.RSS, MemoryCache: st.Cache, MemoryMappedFile: st.MappedFile, MemoryKernel: st.Kernel,
		MemoryActiveFile: st.ActiveFile, MemoryInactiveFile: st.InactiveFile,
		PageFaults: st.PageFaults, MajorPageFaults: st.MajorPageFaults, SwapUsage: st.SwapUsage, SwapLimit: st.SwapLimit,
		Processes: st.Processes, Pids: st.Pids, PidsLimit: st.PidsLimit, OOMKills: st.OOMKills,
		CPUPSI: pressure(st.CPU), MemoryPSI: pressure(st.Memory), IOPSI: pressure(st.IO),
	}
}

func pressure(p *cgrouptree.Pressure) *task.PSI {
	if p == nil {
		return nil
	}
	return &task.PSI{
		SomeTotal: p.Some.Total, SomeAvg10: p.Some.Avg10, SomeAvg60: p.Some.Avg60, SomeAvg300: p.Some.Avg300,
		FullTotal: p.Full.Total, FullAvg10: p.Full.Avg10, FullAvg60: p.Full.Avg60, FullAvg300: p.Full.Avg300,
	}
}

// sum adds up what can be added of containers' figures: a pod's limit and pressure are not the sum of its containers'.
func sum(containers []*containerReading) task.Stats {
	total := task.Stats{Time: time.Now()}
	for _, c := range containers {
		total.CPUUsage += c.stats.CPUUsage
		total.MemoryUsage += c.stats.MemoryUsage
		total.MemoryWorkingSet += c.stats.MemoryWorkingSet
		total.MemoryRSS += c.stats.MemoryRSS
		total.PageFaults += c.stats.PageFaults
		total.MajorPageFaults += c.stats.MajorPageFaults
		total.Processes += c.stats.Processes
	}
	return total
}
