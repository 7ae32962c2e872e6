package richcontainer

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Bounds of the units of one container that do not come from its image.
const (
	maxUnits    = 256
	maxUnitFile = 256 << 10 // bytes
)

// unitFile is a unit that is brought in.
type unitFile struct {
	name string
	text []byte
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
	for _, name := range names {
		if strings.HasPrefix(name, ".") {
			continue // the folders of a ConfigMap
		}
		text, err := readUnit(root, path.Join(at, name), name)
		if err != nil {
			return nil, err
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
		fd, err := unix.Dup(int(i.image.dir.Fd()))
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

// enable makes the links that `systemctl enable` would make: those of the section [Install], else those that units of the
// kind usually have. A service that a timer, socket or path of the same name starts is not started besides.
func enable(f *folder, u unitFile, all []unitFile) {
	if strings.Contains(u.name, "@.") {
		return // which instance is for others to say
	}
	wants, said := installed(u.text)
	if !said {
		wants = usually(u.name, all)
	}
	for _, w := range wants {
		f.link(path.Join(unitsDir, w.target+w.kind, u.name), "../"+u.name)
	}
}

type want struct{ target, kind string }

// installed reads [Install] (systemd.unit(5)): lines that name units; others are left to systemctl.
func installed(text []byte) (out []want, said bool) {
	section := false
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			section = line == "[Install]"
			said = said || section
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		kind := map[string]string{"WantedBy": ".wants", "RequiredBy": ".requires", "UpheldBy": ".upholds"}[strings.TrimSpace(key)]
		if !section || !ok || kind == "" {
			continue
		}
		for _, target := range strings.Fields(value) {
			if w := (want{target, kind}); checkUnitName(target) == nil && !slices.Contains(out, w) {
				out = append(out, w)
			}
		}
	}
	return out, said
}

func usually(name string, all []unitFile) []want {
	stem, kind := strings.TrimSuffix(name, filepath.Ext(name)), filepath.Ext(name)
	if kind == ".service" {
		for _, other := range []string{".timer", ".socket", ".path"} {
			if slices.ContainsFunc(all, func(u unitFile) bool { return u.name == stem+other }) {
				return nil
			}
		}
	}
	switch kind {
	case ".timer":
		return []want{{"timers.target", ".wants"}}
	case ".socket":
		return []want{{"sockets.target", ".wants"}}
	case ".path":
		return []want{{"paths.target", ".wants"}}
	case ".slice", ".target":
		return nil
	}
	return []want{{"multi-user.target", ".wants"}}
}

// unitFolders are where systemd finds the units of an image (systemd.unit(5)), generatedFrom where it finds the scripts that
// it makes units of.
var unitFolders = []string{"/etc/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"}

const generatedFrom = "/etc/init.d"

// namedUnitsExist insists that the units that annotations name are there: systemd would say nothing of a misspelled one, the
// application would be started without it, and its failure would end nothing. Units of kinds that systemd makes without a
// file, and those that may be in what the pod mounts, pass.
func (i *realInit) namedUnitsExist(brought []unitFile) error {
	o := i.r.Choice.Options
	for option, names := range map[string][]string{"after": o.After, "watch-units": o.WatchUnits} {
		for _, name := range names {
			if name == defaultAfter || slices.ContainsFunc(brought, func(u unitFile) bool { return u.name == name || u.name == template(name) }) {
				continue
			}
			there, err := i.unitInImage(name)
			if err != nil {
				return i.r.Choice.refuse(errdefs.ErrInvalidArgument, "annotation %s%s: look for unit %s: %w", Prefix, option, name, err)
			}
			if !there {
				return i.r.Choice.refuse(errdefs.ErrInvalidArgument, "annotation %s%s names the unit %s, which is not there: no file of the image in %s, and none that pod or components bring in: correct the name, or bring it in by %sunits-from",
					Prefix, option, name, strings.Join(unitFolders, ", "), Prefix)
			}
		}
	}
	return nil
}

// unitInImage says whether the image has a unit of that name, or may have one.
func (i *realInit) unitInImage(name string) (bool, error) {
	switch path.Ext(name) {
	case ".service", ".socket", ".target", ".timer", ".path":
	default:
		return true, nil
	}
	places := []string{path.Join(generatedFrom, strings.TrimSuffix(name, ".service"))}
	for _, folder := range unitFolders {
		places = append(places, path.Join(folder, name), path.Join(folder, template(name)))
	}
	for _, p := range places {
		if i.image.hidden(p) {
			return true, nil
		}
		if _, there, err := i.image.look(p); err != nil || there {
			return there, err
		}
	}
	return false, nil
}

// template is the name of the unit that an instance is made of; any other unit's is its own.
func template(name string) string {
	before, rest, instance := strings.Cut(name, "@")
	if !instance {
		return name
	}
	return before + "@" + path.Ext(rest)
}
