package richcontainer

import (
	"path"

	"github.com/containerd/errdefs"
)

// tmpfs is a place that is empty each time that the init begins, as after the boot of a machine.
type tmpfs struct{ path, mode string }

// systemd itself empties /tmp at each boot.
func systemdTmpfs() []tmpfs { return append(inittabTmpfs(), tmpfs{"/tmp", "1777"}) }

func inittabTmpfs() []tmpfs {
	return []tmpfs{{"/run", "755"}, {"/run/lock", "1777"}}
}

// OfOneBoot gives the folders that a container of this mode gets empty at each start, if nothing is mounted there, whatever
// its image has in them. What /sbin/init is decides in sbin-init mode. Errors are InvalidArgument, and name who chose the
// mode and the fix.
func (c Choice) OfOneBoot(rootfs string) ([]string, error) {
	all, err := c.tmpfs(rootfs)
	var out []string
	for _, t := range all {
		out = append(out, t.path)
	}
	return out, err
}

func (c Choice) tmpfs(rootfs string) ([]tmpfs, error) {
	switch c.Mode {
	case Systemd:
		return systemdTmpfs(), nil
	case SbinInit:
	default:
		return nil, nil
	}
	image, err := openImage(rootfs, nil)
	if err != nil {
		return nil, err
	}
	defer image.close()
	f, _, err := image.look(sbinInit)
	if err != nil {
		return nil, c.refuse(errdefs.ErrInvalidArgument, "look for %s: %w", sbinInit, err)
	}
	if path.Base(f.path) == "systemd" {
		return systemdTmpfs(), nil
	}
	return inittabTmpfs(), nil
}
