package cri

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cri-pouch/cri-pouch/cri/model"
)

// terminationPathAnnotation is where the kubelet notes the container's termination log path.
const terminationPathAnnotation = "io.kubernetes.container.terminationMessagePath"

// newID gives 64 random hexadecimal digits, the form that clients expect of IDs.
func newID() string {
	b := make([]byte, 32)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// ticker gives creation times: the wall clock, but each later than the one before, because the kubelet takes the newest
// container by created_at.
type ticker struct {
	mu   sync.Mutex
	last time.Time
}

func (t *ticker) now() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now().UTC().Round(0)
	if !now.After(t.last) {
		now = t.last.Add(time.Nanosecond)
	}
	t.last = now
	return now
}

// seen keeps later times later than t, one of a record.
func (t *ticker) seen(at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if at.After(t.last) {
		t.last = at
	}
}

// sandboxName is the unique name of a sandbox: the kubelet's identity of it.
func sandboxName(c model.SandboxConfig) string {
	return strings.Join([]string{c.Name, c.Namespace, c.UID, fmt.Sprint(c.Attempt)}, "_")
}

// containerName is the unique name of a container.
func containerName(sandboxID string, c model.ContainerConfig) string {
	return strings.Join([]string{c.Name, fmt.Sprint(c.Attempt), "in", sandboxID}, "_")
}

// requestDigest identifies a request for a retry: equal requests have equal digests.
func requestDigest(v any) string {
	b, err := json.Marshal(v)
	if err != nil { // own types hold nothing that cannot be marshalled
		panic(err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// containerDigest leaves out the mount of the termination log: the kubelet gives it a random host path in each try.
func containerDigest(sandboxID string, c model.ContainerConfig) string {
	path := c.Annotations[terminationPathAnnotation]
	if path == "" {
		path = "/dev/termination-log"
	}
	c.Mounts = slices.DeleteFunc(slices.Clone(c.Mounts), func(m model.Mount) bool { return m.ContainerPath == path })
	return requestDigest(struct {
		Sandbox string
		Config  model.ContainerConfig
	}{sandboxID, c})
}
