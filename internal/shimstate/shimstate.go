// Package shimstate is the layout of the shim's state folder, which lies on tmpfs: what the shim writes there, and what
// the daemon reads after a shim's death to clean up. Both sides use it, so it holds no more than paths and records.
package shimstate

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/cri-pouch/cri-pouch/internal/atomicfile"
	"github.com/cri-pouch/cri-pouch/internal/exhaustion"
)

// Dir is the state folder of a shim: <state>/shim.
type Dir string

// Of gives the shim's folder in the node's state folder.
func Of(state string) Dir { return Dir(filepath.Join(state, "shim")) }

// Socket is where the shim listens.
func (d Dir) Socket() string { return filepath.Join(string(d), "shim.sock") }

// Lock is the file whose flock says that a shim lives.
func (d Dir) Lock() string { return filepath.Join(string(d), "lock") }

// Log is the shim's own log.
func (d Dir) Log() string { return filepath.Join(string(d), "shim.log") }

// Libcontainer is libcontainer's state folder.
func (d Dir) Libcontainer() string { return filepath.Join(string(d), "libcontainer") }

// Mounts is an empty folder. Beneath it the sources of a container's mounts are mounted, in a mount namespace of their own.
func (d Dir) Mounts() string { return filepath.Join(string(d), "mounts") }

// Containers holds a folder for each container.
func (d Dir) Containers() string { return filepath.Join(string(d), "containers") }

// Container is the folder of one container: its record and its stdio FIFOs.
func (d Dir) Container(id string) string { return filepath.Join(d.Containers(), id) }

func (d Dir) record(id string) string { return filepath.Join(d.Container(id), "record.json") }

// Make makes the folders, mode 0700: they hold the FIFOs of containers.
func (d Dir) Make() error {
	for _, dir := range []string{string(d), d.Libcontainer(), d.Containers(), d.Mounts()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make the shim's state folder: %w", err)
		}
		// An existing folder may have been made with another mode.
		if err := os.Chmod(dir, 0o700); err != nil {
			return fmt.Errorf("protect the shim's state folder: %w", err)
		}
	}
	return nil
}

// Record is what stands of a container on tmpfs: enough to end it and to remove what it leaves.
type Record struct {
	ID          string            `json:"id"`
	CgroupPaths map[string]string `json:"cgroup_paths"` // controller ("" on cgroup v2) to folder
	Pid         int               `json:"pid,omitempty"`
	StartTime   uint64            `json:"start_time,omitempty"` // of Pid, clock ticks since boot (proc(5), stat, field 22)
	// Hook says that it is no container of a client but one that a container's hook runs in: nobody is told of its end.
	Hook bool `json:"hook,omitempty"`
}

// Write stores a record.
func (d Dir) Write(r Record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode record of container %s: %w", r.ID, err)
	}
	if err := atomicfile.Write(d.record(r.ID), b); err != nil {
		return fmt.Errorf("record of container %s: %w", r.ID, err)
	}
	return nil
}

// Records reads all records. A folder whose record is absent or unreadable gives a record with the ID alone; a want of
// memory or descriptors is an error.
func (d Dir) Records() ([]Record, error) {
	entries, err := os.ReadDir(d.Containers())
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the shim's containers: %w", err)
	}
	var records []Record
	for _, e := range entries {
		r := Record{}
		b, err := os.ReadFile(d.record(e.Name()))
		if exhaustion.Is(err) { // as if the container had no processes and no cgroups
			return nil, fmt.Errorf("read record of container %s: %w", e.Name(), err)
		}
		if err == nil {
			_ = json.Unmarshal(b, &r)
		}
		r.ID = e.Name()
		records = append(records, r)
	}
	return records, nil
}

var validID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$`)

// CheckID refuses what could not be a file name: IDs become folders here.
func CheckID(id string) error {
	if !validID.MatchString(id) {
		return fmt.Errorf("ID %q is not 1 to 128 letters, digits, '_', '.' or '-', starting with a letter or digit: %w", id, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Stat is what proc(5) stat says of a process.
type Stat struct {
	Comm                   string
	State                  byte
	Parent, Group, Session int
	Flags                  uint64 // PF_*
	StartTime              uint64 // clock ticks since boot
	ExitStatus             int    // of a zombie, as wait(2) gives it
}

// ReadStat reads /proc/PID/stat; an error that is os.ErrNotExist when there is no such process.
func ReadStat(pid int) (Stat, error) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return Stat{}, err
	}
	text := string(b)
	open, shut := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')') // comm may hold anything, parentheses too
	if open < 0 || shut < open {
		return Stat{}, fmt.Errorf("stat of process %d is malformed", pid)
	}
	f := strings.Fields(text[shut+1:])
	if len(f) < 20 {
		return Stat{}, fmt.Errorf("stat of process %d is malformed", pid)
	}
	s := Stat{Comm: text[open+1 : shut], State: f[0][0]}
	s.Parent, _ = strconv.Atoi(f[1])
	s.Group, _ = strconv.Atoi(f[2])
	s.Session, _ = strconv.Atoi(f[3])
	s.Flags, _ = strconv.ParseUint(f[6], 10, 64)
	if len(f) >= 50 {
		s.ExitStatus, _ = strconv.Atoi(f[49])
	}
	s.StartTime, err = strconv.ParseUint(f[19], 10, 64)
	if err != nil {
		return Stat{}, fmt.Errorf("stat of process %d: start time: %w", pid, err)
	}
	return s, nil
}
