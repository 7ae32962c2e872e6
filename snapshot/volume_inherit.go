package snapshot

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// inside says whether p lies in a volume that the container's predecessors had, and is there already: a volume of its own
// would hide what they wrote.
func (v *Volumes) inside(dir string, found map[string]volumeRecord, p string) (bool, error) {
	above := ""
	for q := range found {
		if strings.HasPrefix(p, q+"/") && len(q) > len(above) {
			above = q
		}
	}
	if above == "" {
		return false, nil
	}
	root, err := openRoot(filepath.Join(dir, escapePath(above), volumeFS))
	if err != nil {
		return false, fmt.Errorf("look into volume %s: %w", above, err)
	}
	defer unix.Close(root)
	fd, err := openIn(root, strings.TrimPrefix(p, above+"/"), unix.O_PATH)
	switch {
	case err == nil:
		return true, unix.Close(fd)
	case errors.Is(err, unix.ENOENT):
		return false, nil
	}
	return true, nil // a file or a symlink is in the way
}

// translate gives the mapping that shows what was written under mapping was to a pod that has mapping is.
func translate(was, is []IDMapping) ([]IDMapping, error) {
	all := []IDMapping{{Length: 1<<32 - 1}}
	if len(was) == 0 {
		was = all
	}
	if len(is) == 0 {
		is = all
	}
	var out []IDMapping
	for _, a := range was {
		for _, b := range is {
			low := max(a.ContainerID, b.ContainerID)
			high := min(uint64(a.ContainerID)+uint64(a.Length), uint64(b.ContainerID)+uint64(b.Length))
			if uint64(low) < high {
				out = append(out, IDMapping{
					ContainerID: a.HostID + (low - a.ContainerID), HostID: b.HostID + (low - b.ContainerID), Length: uint32(high - uint64(low)),
				})
			}
		}
	}
	if len(out) == 0 || len(out) > maxMappingLines {
		return nil, fmt.Errorf("the pod's user namespace has no owner in common with the one that it was made in: %w", errdefs.ErrFailedPrecondition)
	}
	return out, nil
}

// maxMappingLines is the kernel's bound on the lines of an ID map (user_namespaces(7)).
const maxMappingLines = 340
