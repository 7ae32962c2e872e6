package snapshot

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// userNamespace makes a user namespace with the mappings, each CONTAINER:HOST:SIZE and joined by commas, and gives a
// descriptor that keeps it. A namespace needs a process to be born in: one is started, which never comes to run, and is
// reaped before this returns. containerd's own helper leaves that process's descriptor to the garbage collector, which
// an idle daemon rarely runs.
func userNamespace(uidmap, gidmap string) (*os.File, error) {
	uids, err := parseMappings(uidmap)
	if err != nil {
		return nil, fmt.Errorf("user IDs: %w", err)
	}
	gids, err := parseMappings(gidmap)
	if err != nil {
		return nil, fmt.Errorf("group IDs: %w", err)
	}
	// The child dies with the thread that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	child, err := os.StartProcess("/proc/self/exe", []string{"user-namespace"}, &os.ProcAttr{
		Env: []string{},
		Sys: &syscall.SysProcAttr{
			Cloneflags: syscall.CLONE_NEWUSER, UidMappings: uids, GidMappings: gids,
			Ptrace:    true, // it is stopped at its execve, before it has run anything
			Pdeathsig: syscall.SIGKILL,
		},
	})
	if err != nil {
		return nil, fmt.Errorf("start a process in a new user namespace: %w", err)
	}
	// Nobody else reaps it, so its pid is its own until Wait.
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", child.Pid))
	_ = child.Kill()
	if _, waitErr := child.Wait(); err == nil && waitErr != nil {
		err = fmt.Errorf("reap the process of a new user namespace: %w", waitErr)
		_ = ns.Close()
	}
	if err != nil {
		_ = child.Release()
		return nil, err
	}
	return ns, nil
}

// parseMappings reads what formatMapping writes.
func parseMappings(list string) ([]syscall.SysProcIDMap, error) {
	var maps []syscall.SysProcIDMap
	for part := range strings.SplitSeq(list, ",") {
		var n []int
		for field := range strings.SplitSeq(part, ":") {
			id, err := strconv.ParseUint(field, 10, 32)
			if err != nil {
				return nil, fmt.Errorf("mapping %q: %w", part, err)
			}
			n = append(n, int(id))
		}
		if len(n) != 3 {
			return nil, fmt.Errorf("mapping %q is not CONTAINER:HOST:SIZE", part)
		}
		maps = append(maps, syscall.SysProcIDMap{ContainerID: n[0], HostID: n[1], Size: n[2]})
	}
	return maps, nil
}
