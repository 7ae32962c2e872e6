package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/libcni"

	"github.com/cri-pouch/cri-pouch/internal/atomicfile"
)

// attachment is what a DEL needs. It is on disk before ADD starts and until DEL has succeeded: whatever was killed in
// between, and whatever has become of the configuration, what plugins hold for the pod can be released.
type attachment struct {
	Pod          string         `json:"pod"` // sandbox ID
	NetNS        string         `json:"netns"`
	Args         [][2]string    `json:"args"`
	Capabilities map[string]any `json:"capabilities,omitempty"`
	// Config is the whole configuration list that ADD is called with.
	Config json.RawMessage `json:"config"`
}

// journal is a folder with a file for each attachment, named after the sandbox.
type journal struct{ dir string }

const journalEnding = ".json"

func (j journal) path(id string) string { return filepath.Join(j.dir, id+journalEnding) }

// put writes the attachment durably.
func (j journal) put(a attachment) error {
	b, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("encode attachment of sandbox %s: %w", a.Pod, err)
	}
	if err := os.MkdirAll(j.dir, 0o700); err != nil {
		return fmt.Errorf("make folder of attachments: %w", err)
	}
	if err := atomicfile.Write(j.path(a.Pod), b, atomicfile.Durable()); err != nil {
		return fmt.Errorf("note attachment of sandbox %s: %w", a.Pod, err)
	}
	return nil
}

// get gives nil when the sandbox has no attachment.
func (j journal) get(id string) (*attachment, error) {
	b, err := os.ReadFile(j.path(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var a attachment
	if err == nil {
		err = json.Unmarshal(b, &a)
	}
	if err == nil && a.Pod != id {
		err = fmt.Errorf("it is about %q", a.Pod)
	}
	if err != nil {
		return nil, fmt.Errorf("read attachment of sandbox %s (remove %s to give up what the network holds for it): %w", id, j.path(id), err)
	}
	return &a, nil
}

func (j journal) drop(id string) error {
	// A daemon that was killed while it noted leaves the unfinished file.
	if err := atomicfile.Remove(j.path(id)); err != nil {
		return fmt.Errorf("forget attachment of sandbox %s: %w", id, err)
	}
	return nil
}

// ids are the sandboxes that have an attachment.
func (j journal) ids() ([]string, error) {
	entries, err := os.ReadDir(j.dir)
	if err != nil {
		return nil, ignoreAbsent(err)
	}
	var ids []string
	for _, e := range entries {
		if id, ok := strings.CutSuffix(e.Name(), journalEnding); ok && checkID(id) == nil {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// conf gives the configuration of the attachment and what identifies it to plugins.
func (a *attachment) conf() (*libcni.NetworkConfigList, *libcni.RuntimeConf, error) {
	list, err := libcni.NetworkConfFromBytes(a.Config)
	if err != nil {
		return nil, nil, fmt.Errorf("configuration of the attachment of sandbox %s: %w", a.Pod, err)
	}
	return list, &libcni.RuntimeConf{
		ContainerID: a.Pod, NetNS: a.NetNS, IfName: ifName, Args: a.Args, CapabilityArgs: a.Capabilities,
	}, nil
}
