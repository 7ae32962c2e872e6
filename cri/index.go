package cri

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// index finds sandboxes and containers in memory; it is rebuilt from the records at start.
type index struct {
	mu         sync.RWMutex
	sandboxes  map[string]*sandbox
	containers map[string]*container
}

func newIndex() *index {
	return &index{sandboxes: map[string]*sandbox{}, containers: map[string]*container{}}
}

func (x *index) addSandbox(sb *sandbox) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.sandboxes[sb.id] = sb
}

func (x *index) dropSandbox(id string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.sandboxes, id)
}

// disown notes that a sandbox is being removed and says whether it is the last one of its pod to need the volumes. Of
// several that are removed at once one is.
func (x *index) disown(sb *sandbox, uid string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	sb.disowned = true
	for _, o := range x.sandboxes {
		if !o.disowned && o.record().Config.UID == uid {
			return false
		}
	}
	return true
}

// hasPod says whether there is a sandbox of the pod with that UID.
func (x *index) hasPod(uid string) bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for _, sb := range x.sandboxes {
		if sb.record().Config.UID == uid {
			return true
		}
	}
	return false
}

func (x *index) addContainer(c *container) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.containers[c.id] = c
}

// addContainerOf adds a container unless its sandbox is being stopped. Whoever stops the sandbox says so first and looks for its
// containers then, so that one that was added is found.
func (x *index) addContainerOf(sb *sandbox, c *container) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !sb.ready() {
		return false
	}
	x.containers[c.id] = c
	return true
}

func (x *index) dropContainer(id string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.containers, id)
}

// sandbox finds a sandbox by ID or by a unique prefix of it. One that no client was told of is not found by prefix.
func (x *index) sandbox(id string) (*sandbox, error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return find("sandbox", x.sandboxes, id)
}

// container finds a container by ID or by a unique prefix of it.
func (x *index) container(id string) (*container, error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return find("container", x.containers, id)
}

func find[T interface{ isListed() bool }](what string, m map[string]T, id string) (T, error) {
	if v, ok := m[id]; ok {
		return v, nil
	}
	var zero T
	if id == "" {
		return zero, fmt.Errorf("the request names no %s: %w", what, errdefs.ErrInvalidArgument)
	}
	var found []string
	for full, v := range m {
		if strings.HasPrefix(full, id) && v.isListed() {
			found = append(found, full)
		}
	}
	switch len(found) {
	case 0:
		return zero, fmt.Errorf("%s %q: %w", what, id, errdefs.ErrNotFound)
	case 1:
		return m[found[0]], nil
	}
	return zero, fmt.Errorf("%s %q is the beginning of %d IDs, give more of it: %w", what, id, len(found), errdefs.ErrInvalidArgument)
}

// listedSandboxes gives what lists show, oldest first.
func (x *index) listedSandboxes() []*sandbox {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return listed(x.sandboxes)
}

// allSandboxes returns those in no list too, oldest first.
func (x *index) allSandboxes() []*sandbox {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return oldestFirst(x.sandboxes, func(*sandbox) bool { return true })
}

// listedContainers gives what lists show, oldest first.
func (x *index) listedContainers() []*container {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return listed(x.containers)
}

func listed[T interface {
	isListed() bool
	createdAt() time.Time
}](m map[string]T) []T {
	return oldestFirst(m, T.isListed)
}

// oldestFirst gives those that keep says yes to.
func oldestFirst[T interface{ createdAt() time.Time }](m map[string]T, keep func(T) bool) []T {
	var all []T
	for _, v := range m {
		if keep(v) {
			all = append(all, v)
		}
	}
	slices.SortFunc(all, func(a, b T) int { return a.createdAt().Compare(b.createdAt()) })
	return all
}

// sandboxesOf gives all sandboxes of a pod by its key, oldest first.
func (x *index) sandboxesOf(key string) []*sandbox {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return oldestFirst(x.sandboxes, func(sb *sandbox) bool { return sb.key == key })
}

// containersOf gives all containers of a sandbox, also those in no list, oldest first.
func (x *index) containersOf(sandboxID string) []*container {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return oldestFirst(x.containers, func(c *container) bool { return c.sandboxID == sandboxID })
}
