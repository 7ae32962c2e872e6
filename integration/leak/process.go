package leak

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// process is what /proc tells of one. One that ends while it is looked at has empty fields.
type process struct {
	pid                    int
	comm, exe, line, start string
	zombie                 bool
}

// processes lists those that run one of Binaries, and those in the scope's cgroup, with their own namespaces.
func (s Scope) processes(found inventory) error {
	if len(s.Binaries) == 0 && s.Cgroup == "" {
		return nil
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return fmt.Errorf("list processes: %w", err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		p, ok := readProcess(pid)
		if !ok || !s.runs(p) && !s.contains(pid) {
			continue
		}
		name := fmt.Sprintf("%d: %.200s (started at tick %s)%s", pid, p.title(), p.start, ownNamespaces(pid))
		if p.zombie {
			found.add("zombie", name)
		} else {
			found.add("process", name)
		}
	}
	return nil
}

func readProcess(pid int) (process, bool) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return process{}, false
	}
	// The name stands in brackets and may have any character in it (proc_pid_stat(5)).
	open, end := strings.IndexByte(string(stat), '('), strings.LastIndexByte(string(stat), ')')
	fields := strings.Fields(string(stat[end+1:]))
	if open < 0 || end < open || len(fields) < 20 {
		return process{}, false
	}
	p := process{pid: pid, comm: string(stat[open+1 : end]), start: fields[19], zombie: fields[0] == "Z" || fields[0] == "X"}
	p.exe, _ = os.Readlink(filepath.Join(dir, "exe"))
	p.exe = strings.TrimSuffix(p.exe, " (deleted)")
	line, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
	p.line = strings.TrimSpace(strings.ReplaceAll(string(line), "\x00", " "))
	return p, true
}

func (p process) title() string {
	if p.line != "" {
		return p.line
	}
	return p.comm
}

// commMax is how much of a program's name the kernel keeps.
const commMax = 15

// runs says whether the process is one of Binaries: by what it executes, by its first argument, and as a zombie by the
// name that is left of it.
func (s Scope) runs(p process) bool {
	first, _, _ := strings.Cut(p.line, " ")
	return slices.ContainsFunc(s.Binaries, func(binary string) bool {
		name := filepath.Base(binary)
		if p.zombie {
			return p.comm == name[:min(len(name), commMax)]
		}
		if filepath.IsAbs(binary) {
			return p.exe == binary || first == binary
		}
		return filepath.Base(p.exe) == name || filepath.Base(first) == name
	})
}

// contains says whether the process is in the scope's cgroup, in any hierarchy.
func (s Scope) contains(pid int) bool {
	if s.Cgroup == "" || s.Cgroup == "/" {
		return false
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if parts := strings.SplitN(strings.TrimSpace(line), ":", 3); len(parts) == 3 && s.ownCgroup(parts[2]) {
			return true
		}
	}
	return false
}

var namespaceKinds = []string{"cgroup", "ipc", "mnt", "net", "pid", "user", "uts"}

// ownNamespaces names the namespaces of a process that are not this one's.
func ownNamespaces(pid int) string {
	var own []string
	for _, kind := range namespaceKinds {
		ours, _ := os.Readlink("/proc/self/ns/" + kind)
		if theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind)); err == nil && theirs != ours {
			own = append(own, theirs)
		}
	}
	if len(own) == 0 {
		return ""
	}
	return ", holds " + strings.Join(own, " ")
}

// numbers differ between descriptors of the same sort: "socket:[123]", "/proc/12/ns/net", "/memfd:x".
var numbers = regexp.MustCompile(`[0-9]+`)

// descriptors counts what the processes of Pids have open, by sort: the number of a socket says nothing, and a process
// may well close one and open another. A thread of theirs that stays in a namespace holds it as a descriptor does.
func (s Scope) descriptors(found inventory) error {
	if s.Pids == nil {
		return nil
	}
	for _, pid := range s.Pids() {
		dir := fmt.Sprintf("/proc/%d/fd", pid)
		entries, err := os.ReadDir(dir)
		if err != nil {
			return fmt.Errorf("list descriptors of process %d: %w", pid, err)
		}
		for _, e := range entries {
			target, err := os.Readlink(filepath.Join(dir, e.Name()))
			if err != nil {
				continue // it went in this moment
			}
			if !strings.HasPrefix(target, "/") || strings.HasPrefix(target, "/proc/") || strings.HasPrefix(target, "/memfd:") {
				target = numbers.ReplaceAllString(target, "N")
			}
			found.add("descriptor", fmt.Sprintf("of process %d: %s", pid, target))
		}
		strayThreads(pid, found)
	}
	return nil
}

func strayThreads(pid int, found inventory) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	for _, task := range tasks {
		for _, kind := range namespaceKinds {
			home, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
			if ns, err := os.Readlink(filepath.Join(task, "ns", kind)); err == nil && ns != home {
				found.add("thread", fmt.Sprintf("%s of process %d in %s", filepath.Base(task), pid, ns))
			}
		}
	}
}
