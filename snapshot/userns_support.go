package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/containerd/containerd/v2/core/mount"
)

// supportMapping is one as pods have it; none of the node's users is in it.
const supportMapping = "0:65536:65536"

// UserNamespaces returns nil where root filesystems can be made for pods in a user namespace, and otherwise what is missing.
// It does what is done for such a pod: it makes a user namespace and an overlay over idmapped layers, on the file system of
// the layers. A kernel may lack any of these (5.12, 5.19 for overlay), a node may allow no user namespaces
// (user.max_user_namespaces).
func (s *Rootfs) UserNamespaces() error {
	return tryUserNamespace(filepath.Join(s.eng.Root(), "userns-support"), s.eng.TempMounts())
}

// tryUserNamespace works in a folder dir that it makes and removes; tmp is the folder of short-lived mounts.
func tryUserNamespace(dir, tmp string) (err error) {
	at := filepath.Join(dir, "at")
	if err := removeSupport(dir, at); err != nil { // of a daemon that died here
		return err
	}
	defer func() { err = errors.Join(err, removeSupport(dir, at)) }()
	o := overlayOptions{uidmap: supportMapping, gidmap: supportMapping}
	for _, layer := range supportLayers(dir) {
		if err := os.MkdirAll(layer, 0o711); err != nil {
			return fmt.Errorf("try idmapped layers: %w", err)
		}
		o.lower = append(o.lower, layer)
	}
	if err := os.Mkdir(at, 0o700); err != nil {
		return fmt.Errorf("try idmapped layers: %w", err)
	}
	if err := o.mount(at, tmp); err != nil {
		return fmt.Errorf("try idmapped layers: %w", err)
	}
	return nil
}

// supportLayers are two, as overlayfs wants for a mount that cannot be written to.
func supportLayers(dir string) (layers []string) {
	for n := range 2 {
		layers = append(layers, filepath.Join(dir, strconv.Itoa(n+1), "fs"))
	}
	return layers
}

func removeSupport(dir, at string) error {
	if err := mount.UnmountAll(at, 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unmount %s: %w", at, err)
	}
	// Never RemoveAll, where something may still be mounted.
	paths := []string{at}
	for _, layer := range supportLayers(dir) {
		paths = append(paths, layer, filepath.Dir(layer))
	}
	for _, p := range append(paths, dir) {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
