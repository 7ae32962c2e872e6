package shim

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/crash"
	"github.com/cri-pouch/cri-pouch/internal/richrun"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

// exit gives the application's end in place of pid 1's.
func (r *rich) exit(init ending) ending {
	record, _ := r.read()
	r.mu.Lock()
	p := r.progress
	r.mu.Unlock()
	end := ending{Exit: task.Exit{ExitedAt: init.ExitedAt}, endedAt: init.ExitedAt}
	struck := init.OOMKilled && init.Code == 128+uint32(unix.SIGKILL) && !r.c.killed.Load() && r.c.s.oom.count(r.c) > p.OOMSeen
	last := richrun.Run{}
	if n := len(record.Runs); n > 0 {
		last = record.Runs[n-1]
	}
	switch {
	case p.Because == richrun.UnitFailed:
		end.Code = unitFailedCode
	case record.Done:
		end.Code = uint32(record.Code)
	case last.Ended:
		end.Code = uint32(last.Code)
	case last.N > 0 || p.Because == richrun.LauncherLost: // it went with pid 1, or with its launcher
		end.Code, end.signal = 128+uint32(unix.SIGKILL), unix.SIGKILL
	case p.Stopped:
		end.Code, end.signal = 128+uint32(unix.SIGTERM), unix.SIGTERM
	case init.Code != 0:
		end.Code, end.signal = init.Code, init.signal
	default:
		end.Code = neverStartedCode
	}
	if last.Ended && end.Code == uint32(last.Code) {
		end.signal, end.endedAt = unix.Signal(last.Signal), last.EndedAt
	}
	end.OOMKilled = last.N > 0 && last.Signal == int(unix.SIGKILL) && (last.OOM || p.OOMRun == last.N) ||
		struck && !record.Done && !last.Ended // the init itself, and the application went with it
	return end
}

// struck notes that the OOM killer ended a process of the container. Of what follows until that is looked into, and of how long
// it takes, root inside decides: one look is due at a time, and it leaves most of the time to others.
func (r *rich) struck() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.settling {
		r.struckAgain = true
		return
	}
	r.settling = true
	time.AfterFunc(oomSettle, crash.Guard(r.c.log, "look at what the OOM killer has ended", r.settle))
}

// settle looks into it, and again if the OOM killer has struck meanwhile.
func (r *rich) settle() {
	begun := time.Now()
	r.findSurvivor()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.settling = r.struckAgain && !r.closed
	r.struckAgain = false
	if r.settling {
		time.AfterFunc(max(oomSettle, readRest*time.Since(begun)), crash.Guard(r.c.log, "look at what the OOM killer has ended", r.settle))
	}
}

// findSurvivor notes an application that still runs a while after the OOM killer struck: it was not the one.
func (r *rich) findSurvivor() {
	record, err := richrun.ReadRecord(r.c.bundle)
	run, running := record.Running()
	if err != nil || !running || r.dying(run.PID) {
		return
	}
	kills := r.c.s.oom.count(r.c)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.progress.OOMSeen = kills
	r.save()
}

// accountOOM finds out whether the OOM killer ended the application. Where that has a cgroup of its own its launcher knows;
// elsewhere a kill that nobody else accounts for counts as its, if it died of SIGKILL.
func (r *rich) accountOOM(record richrun.Record) {
	if len(record.Runs) == 0 {
		return
	}
	last := record.Runs[len(record.Runs)-1]
	kills := r.c.s.oom.count(r.c)
	r.mu.Lock()
	defer r.mu.Unlock()
	if last.Signal == int(unix.SIGKILL) && kills > r.progress.OOMSeen {
		r.progress.OOMRun, r.progress.OOMSeen = last.N, kills
		r.save()
	}
}
