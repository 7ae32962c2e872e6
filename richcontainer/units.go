package richcontainer

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Bounds of the units of one container that do not come from its image.
const (
	maxUnits    = 256
	maxUnitFile = 256 << 10 // bytes
	maxUnitText = 1 << 20   // of all of them: a ConfigMap has no more
)

// unitFile is a unit that is brought in.
type unitFile struct {
	name      string
	text      []byte
	component string // of the administrator, that brings it; empty: the pod does
}

// fault refuses a unit, and names who has brought it.
func (i *realInit) fault(u unitFile, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	if u.component != "" {
		return i.r.Choice.refuse(errdefs.ErrFailedPrecondition, "component %s, unit %s: %w", u.component, u.name, err)
	}
	return i.r.Choice.refuse(errdefs.ErrInvalidArgument, "annotation %sunits-from, folder %s, unit %s: %w", Prefix, i.r.Choice.Options.UnitsFrom, u.name, err)
}

// unitsFrom reads the unit files of a folder that the pod mounts, or that the image has. What is mounted is the pod author's,
// and its links may lead nowhere but into the same mount.
func (i *realInit) unitsFrom() ([]unitFile, error) {
	folder := i.r.Choice.Options.UnitsFrom
	if folder == "" {
		return nil, nil
	}
	units, err := i.readUnits(folder)
	if err != nil {
		return nil, i.r.Choice.refuse(errdefs.ErrInvalidArgument, "annotation %sunits-from, folder %s: %w", Prefix, folder, err)
	}
	return units, nil
}

func (i *realInit) readUnits(folder string) ([]unitFile, error) {
	root, at, err := i.mounted(folder)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	dir, err := openIn(root, at)
	if absent(err) {
		return nil, fmt.Errorf("there is no such folder in the container: mount one (a ConfigMap, for instance) there: %w", errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := listFolder(dir)
	if err != nil {
		return nil, err
	}
	var out []unitFile
	total := 0
	for _, name := range names {
		if strings.HasPrefix(name, ".") {
			continue // the folders of a ConfigMap
		}
		text, err := readUnit(root, path.Join(at, name), name)
		if err != nil {
			return nil, err
		}
		if total += len(text); total > maxUnitText {
			return nil, fmt.Errorf("the unit files have more than %d bytes together: leave out what is no unit, or put large files elsewhere: %w", maxUnitText, errdefs.ErrInvalidArgument)
		}
		out = append(out, unitFile{name: name, text: text})
	}
	return out, nil
}

// readUnit reads one unit file.
func readUnit(root *os.File, at, name string) ([]byte, error) {
	if err := checkUnitName(strings.Replace(name, "@.", "@x.", 1)); err != nil { // a template is no mistake here
		return nil, err
	}
	f, err := openIn(root, at)
	if absent(err) {
		return nil, fmt.Errorf("%s leads to nothing in the mounted folder: %w", name, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readPlain(f, name, maxUnitFile)
}

// mounted gives the folder that a path of the container lies in: of the deepest mount, else of the image; and the path in it.
func (i *realInit) mounted(p string) (root *os.File, at string, err error) {
	source, below := "", ""
	for _, m := range i.r.Spec.Mounts {
		d := path.Clean(m.Destination)
		if (p == d || strings.HasPrefix(p, d+"/")) && len(d) >= len(below) {
			source, below = m.Source, d
			if m.Type != "bind" {
				source = ""
			}
		}
	}
	if below == "" {
		fd, err := unix.FcntlInt(i.image.dir.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, "", err
		}
		return os.NewFile(uintptr(fd), "image"), p, nil
	}
	if source == "" {
		return nil, "", fmt.Errorf("the kernel fills %s: %w", below, errdefs.ErrInvalidArgument)
	}
	root, err = os.OpenFile(source, unix.O_PATH|unix.O_DIRECTORY, 0)
	if errors.Is(err, unix.ENOTDIR) {
		return nil, "", fmt.Errorf("%s is mounted as a file: %w", below, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return nil, "", fmt.Errorf("open what the pod mounts at %s: %w", below, err)
	}
	return root, path.Join("/", strings.TrimPrefix(p, below)), nil
}

// listFolder gives the names in an open folder, sorted; more of them than a bound are an error.
func listFolder(dir *os.File) ([]string, error) {
	f, err := os.Open(fdPath(dir))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.IsDir() {
		return nil, fmt.Errorf("it is no folder but %s: %w", kindOf(st.Mode()), errdefs.ErrInvalidArgument)
	}
	names, err := f.Readdirnames(maxUnits + 1)
	if err != nil && len(names) > 0 || len(names) > maxUnits {
		return nil, fmt.Errorf("more than %d files: %w (%v)", maxUnits, errdefs.ErrInvalidArgument, err)
	}
	slices.Sort(names)
	return names, nil
}
