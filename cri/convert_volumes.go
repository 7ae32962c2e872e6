package cri

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/cri/model"
	"github.com/cri-pouch/cri-pouch/internal/annotation"
)

// Annotations of a pod that say what outlives its containers. Each can be given for one container by its name behind a dot,
// which then counts instead.
const (
	persistAnnotation = "upgrade.cri-pouch.io/persist" // paths, joined by commas
	volumesAnnotation = "upgrade.cri-pouch.io/volumes" // keep (the default) or fresh
)

const (
	volumesKeep  = "keep"
	volumesFresh = "fresh"
	// maxVolumes bounds the volumes of one container, whoever asks for them.
	maxVolumes = 64
	// maxVolumePath bounds a volume's path: with that of the root filesystem before it, it must be one that can be mounted at.
	maxVolumePath = 1024
)

// kernelPaths are filled by the kernel and by us.
var kernelPaths = []string{"/proc", "/sys", "/dev"}

// podAnnotations are the pod's present ones, which CreateContainer brings; those of the sandbox's creation where it does not.
func podAnnotations(r *runtime.CreateContainerRequest, sb model.Sandbox) map[string]string {
	if c := r.GetSandboxConfig(); c != nil {
		return c.GetAnnotations()
	}
	return sb.Config.Annotations
}

// volumeWishes reads from the pod's annotations what shall outlive the container. Errors are InvalidArgument and name the
// annotation, the position in it and the fix.
func volumeWishes(annotations map[string]string, c *model.ContainerConfig) error {
	list, persistKey := annotation.For(annotations, persistAnnotation, c.Name)
	mode, modeKey := annotation.For(annotations, volumesAnnotation, c.Name)
	switch {
	case modeKey == "", mode == volumesKeep:
	case mode == volumesFresh:
		c.FreshVolumes = true
	default:
		return annotationError(modeKey, "%.100q is neither %s nor %s", mode, volumesKeep, volumesFresh)
	}
	paths, err := persistPaths(persistKey, list)
	if err != nil {
		return err
	}
	if c.FreshVolumes && len(paths) > 0 {
		return fmt.Errorf("annotations %s: %q and %s: %.200q of container %q contradict each other, remove one of them: %w",
			modeKey, mode, persistKey, list, c.Name, errdefs.ErrInvalidArgument)
	}
	c.Persist = paths
	return nil
}

// persistPaths takes the list apart. An empty list is none at all, so that one container can be left out.
func persistPaths(key, list string) ([]string, error) {
	if strings.TrimSpace(list) == "" {
		return nil, nil
	}
	if n := strings.Count(list, ",") + 1; n > maxVolumes {
		return nil, annotationError(key, "has %d paths, at most %d are allowed: name folders above them", n, maxVolumes)
	}
	var out []string
	for i, p := range strings.Split(list, ",") {
		p = strings.TrimSpace(p)
		if p == "" {
			return nil, annotationError(key, "path %d is empty, remove a comma", i+1)
		}
		if err := checkPersistPath(p); err != nil {
			return nil, annotationError(key, "path %d %w", i+1, err)
		}
		if p = path.Clean(p); slices.Contains(out, p) {
			return nil, annotationError(key, "path %d, %.200q, stands there twice, remove one", i+1, p)
		}
		out = append(out, p)
	}
	return out, nil
}

// checkPersistPath refuses what can be no volume. Its error goes on after the position of the path.
func checkPersistPath(p string) error {
	if err := checkText("path", p, maxVolumePath); err != nil {
		return fmt.Errorf("is impossible: %w", err)
	}
	switch {
	case !path.IsAbs(p):
		return fmt.Errorf("%.200q is not absolute, begin it with a slash", p)
	case slices.Contains(strings.Split(p, "/"), ".."):
		return fmt.Errorf("%.200q has a '..', write the path that is meant", p)
	case path.Clean(p) == "/":
		return fmt.Errorf("%q is the whole root filesystem, name the folders that are meant", p)
	}
	if i := slices.IndexFunc(strings.Split(p, "/"), func(s string) bool { return len(s) > 255 }); i >= 0 {
		return fmt.Errorf("%.200q… has a name of more than 255 bytes, no file can be called so", p)
	}
	if k := kernelPath(path.Clean(p)); k != "" {
		return fmt.Errorf("%.200q lies in %s, which the kernel fills: remove it", p, k)
	}
	return nil
}

// kernelPath gives the one of kernelPaths that p is or lies below; empty for none.
func kernelPath(p string) string {
	for _, k := range kernelPaths {
		if covers(k, p) {
			return k
		}
	}
	return ""
}

// covers says whether p is at or below above; both are absolute and clean.
func covers(above, p string) bool {
	return p == above || above == "/" || strings.HasPrefix(p, above+"/")
}

func annotationError(key, format string, args ...any) error {
	return fmt.Errorf("annotation %s: %w: %w", key, fmt.Errorf(format, args...), errdefs.ErrInvalidArgument)
}
