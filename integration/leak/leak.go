// Package leak tells whether a test leaves something behind on the machine: mounts, pinned namespaces, cgroups, links,
// addresses, firewall rules, processes, descriptors, files, and what the caller can list. It compares what there is
// before with what there is after, by name, so that what was there anyway does not matter.
package leak

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// Scope says what a test could leave behind. What is not named is not looked at.
type Scope struct {
	// MountDirs are folders; mounts on and below them are compared, pinned namespaces among them. "/" means all.
	MountDirs []string
	// FileDirs are folders whose files, folders and links are compared, by path.
	FileDirs []string
	// CNIDirs are data folders of the plugin host-local, as /var/lib/cni/networks: a folder for each network.
	CNIDirs []string
	// Cgroup is an element of the path of each cgroup that is compared, in all hierarchies, as the name of the tests'
	// cgroup parent; "/" means all. Processes in these cgroups are compared too, unless they are all.
	Cgroup string
	// Link chooses network links of this network namespace by their name and their master's; AnyLink takes all.
	Link func(name, master string) bool
	// Rule chooses firewall rules of CNI plugins by their text; AnyRule takes all.
	Rule func(rule string) bool
	// Binaries are programs, by path or by name; processes that run them are compared.
	Binaries []string
	// Pids gives the processes whose descriptors and threads are compared, as the daemon's. It is asked each time.
	Pids func() []int
	// Held gives the names of other things by their kind, as "snapshot" and "lease".
	Held map[string]func() ([]string, error)
	// Settle is how long Check waits for what ends on its own, as a namespace that the kernel clears up; default 5 s.
	Settle time.Duration
}

// AnyLink takes all links: nothing else on the machine may make any at the same time.
func AnyLink(string, string) bool { return true }

// AnyRule takes all rules of CNI plugins: no other user of CNI may run on the machine at the same time.
func AnyRule(string) bool { return true }

// Snapshot is what there was at one time.
type Snapshot struct {
	scope  Scope
	before inventory
}

// inventory has the names of things, with how many there are of each, by kind.
type inventory map[string]map[string]int

func (i inventory) add(kind, name string) {
	if i[kind] == nil {
		i[kind] = map[string]int{}
	}
	i[kind][name]++
}

// Take notes what there is now. It fails the test when that cannot be found out.
func Take(t testing.TB, scope Scope) *Snapshot {
	t.Helper()
	if scope.Settle <= 0 {
		scope.Settle = 5 * time.Second
	}
	before, err := scope.collect()
	if err != nil {
		t.Fatalf("look at the machine before the test: %v", err)
	}
	return &Snapshot{scope, before}
}

// Check fails the test with the name of each thing that is there now and was not at Take. Things that were there and
// are gone are no leak.
func (s *Snapshot) Check(t testing.TB) {
	t.Helper()
	left, err := s.left()
	// The kernel tells of the end of none of these things together: asking again is all there is.
	for deadline := time.Now().Add(s.scope.Settle); err == nil && len(left) > 0 && time.Now().Before(deadline); left, err = s.left() {
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil {
		t.Errorf("look at the machine after the test: %v", err)
	}
	for _, line := range left {
		t.Errorf("left behind: %s", line)
	}
}

// left gives a line for each thing that is new.
func (s *Snapshot) left() ([]string, error) {
	after, err := s.scope.collect()
	var lines []string
	for kind, names := range after {
		for name, count := range names {
			more := count - s.before[kind][name]
			switch {
			case more == 1:
				lines = append(lines, kind+" "+name)
			case more > 1:
				lines = append(lines, fmt.Sprintf("%s %s, %d times", kind, name, more))
			}
		}
	}
	slices.Sort(lines)
	return lines, err
}

// collect looks at everything; it fails as a whole, since half a look would call things gone.
func (s Scope) collect() (inventory, error) {
	found := inventory{}
	for _, look := range []func(inventory) error{s.mounts, s.cgroups, s.links, s.rules, s.addresses, s.files, s.processes, s.descriptors, s.held} {
		if err := look(found); err != nil {
			return nil, err
		}
	}
	return found, nil
}

func (s Scope) held(found inventory) error {
	for kind, list := range s.Held {
		names, err := list()
		if err != nil {
			return fmt.Errorf("list each %s: %w", kind, err)
		}
		for _, name := range names {
			found.add(kind, name)
		}
	}
	return nil
}

// below says whether path is dir or is in it.
func below(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}
