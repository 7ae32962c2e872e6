package spec

import (
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	selinux "github.com/opencontainers/selinux/go-selinux"
	"github.com/opencontainers/selinux/go-selinux/label"
)

// volumes gives the mounts of the volumes. They come before all others: what they would hide has been left out of them, and
// what lies below them must be seen.
func (b *Builder) volumes(in Input) ([]specs.Mount, error) {
	out := make([]specs.Mount, 0, len(in.Volumes))
	for _, v := range in.Volumes {
		if b.node.SELinux && !in.Config.Security.Privileged {
			if err := labelVolume(in, v.HostPath); err != nil {
				return nil, fmt.Errorf("volume %s: %w", v.ContainerPath, err)
			}
		}
		out = append(out, specs.Mount{
			Destination: v.ContainerPath, Type: "bind", Source: v.HostPath, Options: []string{"rbind", "rprivate", "rw"},
			UIDMappings: mappings(v.UIDMappings), GIDMappings: mappings(v.GIDMappings),
		})
	}
	slices.SortStableFunc(out, func(a, b specs.Mount) int { return depth(a.Destination) - depth(b.Destination) })
	return out, nil
}

// labelVolume gives the volume, which we made, to the pod. The level is that of the sandbox: after another one, or with a
// new volume, all files are labelled anew.
func labelVolume(in Input, dir string) error {
	in.Config.Security.SELinux = nil
	_, file, err := labels(in)
	if err != nil {
		return err
	}
	if now, err := selinux.FileLabel(dir); err == nil && now == file {
		return nil
	}
	if err := label.Relabel(dir, file, false); err != nil {
		return fmt.Errorf("label it %s: %w: %w", file, err, errdefs.ErrFailedPrecondition)
	}
	return nil
}
