package richcontainer

import (
	"path"
	"slices"
	"strings"
)

// Bounds of what the sections [Install] ask for: each name is a link on the node's /run, and often a folder.
const (
	maxInstalled = 64   // names of one unit
	maxLinks     = 1024 // of all units of a container
)

// install is the section of that name of a unit file (systemd.unit(5)).
type install struct {
	said     bool // there is one
	wants    []want
	alias    []string
	also     []string
	instance string // DefaultInstance
	passed   string // a name that cannot be followed: of a device, with a specifier, a template
	many     bool   // it names more than maxInstalled
}

// want says that a unit is to be in target's folder of that kind.
type want struct{ target, kind string }

// wantKinds are the folders of the keys that name targets.
var wantKinds = map[string]string{"WantedBy": ".wants", "RequiredBy": ".requires", "UpheldBy": ".upholds"}

// readInstall reads the section. An empty value takes back what the key has said before.
func readInstall(text []byte) install {
	var in install
	seen := map[string]bool{}
	section := false
	for _, line := range logicalLines(text) {
		if strings.HasPrefix(line, "[") {
			section = line == "[Install]"
			in.said = in.said || section
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !section || !ok {
			continue
		}
		in.set(strings.TrimSpace(key), strings.Fields(value), seen)
		if in.many {
			break
		}
	}
	return in
}

func (in *install) set(key string, names []string, seen map[string]bool) {
	kind := wantKinds[key]
	switch {
	case key == "DefaultInstance":
		in.instance = strings.Join(names, " ")
		return
	case kind != "" && len(names) == 0:
		in.wants = slices.DeleteFunc(in.wants, func(w want) bool { return w.kind == kind })
		clear(seen)
	case key == "Alias" && len(names) == 0:
		in.alias = nil
		clear(seen)
	case kind == "" && key != "Alias" && key != "Also":
		return
	}
	for _, name := range names {
		name = strings.Trim(name, `"'`)
		if checkUnitName(name) != nil {
			in.passed = name
			continue
		}
		if seen[key+"="+name] {
			continue
		}
		seen[key+"="+name] = true
		switch {
		case kind != "":
			in.wants = append(in.wants, want{name, kind})
		case key == "Alias":
			in.alias = append(in.alias, name)
		default:
			in.also = append(in.also, name)
		}
		if in.many = len(in.wants)+len(in.alias)+len(in.also) > maxInstalled; in.many {
			return
		}
	}
}

// logicalLines joins lines that end in a backslash with the next one, and leaves comments out, between such lines too
// (systemd.syntax(7)).
func logicalLines(text []byte) (out []string) {
	var line strings.Builder
	for part := range strings.Lines(string(text)) {
		part = strings.TrimSpace(part)
		if strings.HasPrefix(part, "#") || strings.HasPrefix(part, ";") {
			continue
		}
		more, goesOn := strings.CutSuffix(part, "\\")
		line.WriteString(more)
		if goesOn {
			line.WriteByte(' ')
			continue
		}
		out = append(out, strings.TrimSpace(line.String()))
		line.Reset()
	}
	return append(out, strings.TrimSpace(line.String()))
}

// installer makes the links that `systemctl enable` would make.
type installer struct {
	i       *realInit
	brought map[string]unitFile
	alias   map[string]string // other names of units, and which ones they are of
	links   map[string]bool   // that are made
	done    map[string]bool   // units that are enabled
}

// enable follows the sections [Install] of all units; one without such a section is enabled as units of its kind usually are.
func (i *realInit) enable(units []unitFile) (*installer, error) {
	e := &installer{i: i, brought: map[string]unitFile{}, alias: map[string]string{}, links: map[string]bool{}, done: map[string]bool{}}
	for _, u := range units {
		e.brought[u.name] = u
	}
	for _, u := range units {
		in := readInstall(u.text)
		if !in.said {
			in.wants = e.usually(u.name)
		}
		if err := e.unit(u, in, "../"+u.name); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// unit makes the links of a unit, which those from the folder of a target lead to at the path file.
func (e *installer) unit(u unitFile, in install, file string) error {
	if in.many {
		return e.i.fault(u, "its [Install] names more than %d units: name a target that all of them want instead", maxInstalled)
	}
	if in.passed != "" && len(in.wants)+len(in.alias)+len(in.also) == 0 {
		return e.i.fault(u, "its [Install] names nothing but %.100q, which cannot be followed: name a unit that is no template and no device, without specifiers", in.passed)
	}
	name := u.name
	if strings.Contains(name, "@.") {
		// Without a default it is for others to say which instance is wanted.
		if name = strings.Replace(name, "@.", "@"+in.instance+".", 1); checkUnitName(name) != nil {
			return nil
		}
	}
	for _, w := range in.wants {
		if err := e.link(u, path.Join(w.target+w.kind, name), file); err != nil {
			return err
		}
	}
	for _, other := range in.alias {
		if err := e.otherName(u, other, strings.TrimPrefix(file, "../")); err != nil {
			return err
		}
	}
	for _, other := range in.also {
		if err := e.also(u, other); err != nil {
			return err
		}
	}
	return nil
}

func (e *installer) link(u unitFile, name, to string) error {
	if e.links[name] {
		return nil
	}
	if len(e.links) == maxLinks {
		return e.i.fault(u, "the units ask for more than %d links in their [Install]: leave some out", maxLinks)
	}
	e.links[name] = true
	e.i.folder.link(path.Join(unitsDir, name), to)
	return e.i.folder.err
}

// otherName gives a unit one more name, of the same kind of unit. An instance's would be another unit's.
func (e *installer) otherName(u unitFile, name, to string) error {
	if path.Ext(name) != path.Ext(u.name) || strings.Contains(name, "@") || strings.Contains(u.name, "@") {
		return e.i.fault(u, "Alias=%s is impossible: an alias has the same ending, and neither has an '@'", name)
	}
	if name == u.name || e.alias[name] == u.name {
		return nil
	}
	if _, taken := e.brought[name]; taken || e.alias[name] != "" {
		return e.i.fault(u, "Alias=%s is the name of another unit that is brought in: remove one", name)
	}
	e.alias[name] = u.name
	return e.link(u, name, to)
}

// also enables a unit that another one names. Those that are brought in are enabled anyway.
func (e *installer) also(u unitFile, name string) error {
	if _, ok := e.brought[name]; ok || e.done[name] || slices.Contains(maskedUnits(), name) {
		return nil
	}
	e.done[name] = true
	at, err := e.i.findUnit(name)
	if err != nil {
		return e.i.fault(u, "Also=%s: %w", name, err)
	}
	if at.file == "" {
		return e.i.fault(u, "Also=%s: the image has no such unit: correct the name, or bring it in too", name)
	}
	text, err := e.i.image.read(at.file, maxUnitFile)
	if err != nil {
		return e.i.fault(u, "Also=%s: %w", name, err)
	}
	u.name = at.name
	return e.unit(u, readInstall(text), at.file)
}

// usually says what wants a unit without the section. A service that a timer, socket or path of the same name starts is not
// started besides.
func (e *installer) usually(name string) []want {
	kind := path.Ext(name)
	stem := strings.TrimSuffix(name, kind)
	switch kind {
	case ".timer":
		return []want{{"timers.target", ".wants"}}
	case ".socket":
		return []want{{"sockets.target", ".wants"}}
	case ".path":
		return []want{{"paths.target", ".wants"}}
	case ".slice", ".target":
		return nil
	case ".service":
		for _, other := range []string{".timer", ".socket", ".path"} {
			if _, ok := e.brought[stem+other]; ok {
				return nil
			}
		}
	}
	return []want{{"multi-user.target", ".wants"}}
}
