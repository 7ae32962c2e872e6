package hooks

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/hookrun"
)

// Bounds of one file.
const (
	nodeFileMax   = 64 << 10 // bytes
	nodePatterns  = 64       // regular expressions
	nodePattern   = 1 << 10  // bytes of one
	nodeArgs      = 64
	nodeEnv       = 128
	nodeVersion   = "1.0.0"
	nodeExtension = ".json"
)

// NodeFile is one file of a folder of hooks.
type NodeFile struct {
	Path   string
	Hook   specs.Hook // its Timeout is what is in force
	Stages []hookrun.Stage
	When   NodeWhen
	// Err says why the file is not used; nil: it is.
	Err error
}

// Name is the file's name without its folder.
func (f NodeFile) Name() string { return filepath.Base(f.Path) }

// NodeWhen says which containers a hook is for: those for which all that is given here is so.
type NodeWhen struct {
	Always        *bool
	Annotations   []NodePair
	Commands      []string
	HasBindMounts *bool

	commands []*regexp.Regexp
}

// NodePair is the pattern of an annotation.
type NodePair struct {
	Key, Value string
	key, value *regexp.Regexp
}

// nodeJSON is a file as it is written (oci-hooks(5), 1.0.0 Hook Schema).
type nodeJSON struct {
	Version string   `json:"version"`
	Hook    hookJSON `json:"hook"`
	When    struct {
		Always        *bool             `json:"always"`
		Annotations   map[string]string `json:"annotations"`
		Commands      []string          `json:"commands"`
		HasBindMounts *bool             `json:"hasBindMounts"`
	} `json:"when"`
	Stages []string `json:"stages"`
}

type hookJSON struct {
	Path    string   `json:"path"`
	Args    []string `json:"args"`
	Env     []string `json:"env"`
	Timeout *int     `json:"timeout"`
}

// readNodeFile reads one file. It always gives a NodeFile: what is wrong stands in its Err.
func readNodeFile(path string) NodeFile {
	f := NodeFile{Path: path}
	text, err := readTrusted(path)
	if err != nil {
		f.Err = err
		return f
	}
	f.Err = f.parse(text)
	return f
}

// readTrusted reads a file that nobody but root can have written.
func readTrusted(path string) ([]byte, error) {
	// A FIFO must not hold the daemon up.
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, withoutPath(err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, withoutPath(err)
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is no regular file")
	}
	if err := trusted(info); err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(file, nodeFileMax+1))
	if err != nil {
		return nil, withoutPath(err)
	}
	if len(text) > nodeFileMax {
		return nil, fmt.Errorf("it has more than %d bytes", nodeFileMax)
	}
	return text, nil
}

// trusted refuses what somebody else than root could change.
func trusted(info os.FileInfo) error {
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 {
		return fmt.Errorf("it belongs to user %d, make root its owner", st.Uid)
	}
	if info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("others than root can write to it (mode %04o), take that away (chmod go-w)", info.Mode().Perm())
	}
	return nil
}

// withoutPath takes the path off an error about a file: whoever prints it names the file.
func withoutPath(err error) error {
	if pe := (*os.PathError)(nil); errors.As(err, &pe) {
		return fmt.Errorf("%s: %w", pe.Op, pe.Err)
	}
	return err
}

func (f *NodeFile) parse(text []byte) error {
	var version struct {
		Version string `json:"version"`
	}
	if err := json.Unmarshal(text, &version); err != nil {
		return fmt.Errorf("it is no JSON object as it should be: %w", err)
	}
	if version.Version != nodeVersion {
		return fmt.Errorf("its version is %.40q, only %q is known", version.Version, nodeVersion)
	}
	var j nodeJSON
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields() // a misspelt condition would be no condition
	if err := d.Decode(&j); err != nil {
		return err
	}
	if err := f.takeHook(j.Hook); err != nil {
		return err
	}
	if err := f.takeStages(j.Stages); err != nil {
		return err
	}
	return f.When.take(j)
}

func (f *NodeFile) takeHook(h hookJSON) error {
	switch {
	case h.Path == "":
		return errors.New("hook.path is missing")
	case !filepath.IsAbs(h.Path):
		return fmt.Errorf("hook.path %.200q is not absolute", h.Path)
	case filepath.Clean(h.Path) != h.Path:
		return fmt.Errorf("hook.path %.200q is not clean, write %.200q", h.Path, filepath.Clean(h.Path))
	case len(h.Args) > nodeArgs:
		return fmt.Errorf("hook.args has %d entries, at most %d are allowed", len(h.Args), nodeArgs)
	case len(h.Env) > nodeEnv:
		return fmt.Errorf("hook.env has %d entries, at most %d are allowed", len(h.Env), nodeEnv)
	case h.Timeout != nil && *h.Timeout <= 0:
		return fmt.Errorf("hook.timeout is %d, it has to be more than 0 seconds", *h.Timeout)
	}
	for i, s := range append([]string{h.Path}, h.Args...) {
		if strings.ContainsRune(s, 0) {
			return fmt.Errorf("hook.args[%d] holds a NUL", i-1)
		}
	}
	for i, e := range h.Env {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" || strings.ContainsRune(e, 0) {
			return fmt.Errorf("hook.env[%d] is not NAME=VALUE", i)
		}
	}
	f.Hook = specs.Hook{Path: h.Path, Args: h.Args, Env: h.Env, Timeout: h.Timeout}
	return nil
}

func (f *NodeFile) takeStages(names []string) error {
	if len(names) == 0 {
		return errors.New("stages is missing or empty")
	}
	for i, name := range names {
		stage := hookrun.Stage(name)
		if !slices.Contains(NodeStages(), stage) {
			return fmt.Errorf("stages[%d] %.40q is none of %s", i, name, joinStages(NodeStages()))
		}
		if slices.Contains(f.Stages, stage) {
			return fmt.Errorf("stages[%d] %q stands there twice", i, name)
		}
		f.Stages = append(f.Stages, stage)
	}
	return nil
}

func joinStages(stages []hookrun.Stage) string {
	names := make([]string, len(stages))
	for i, s := range stages {
		names[i] = string(s)
	}
	return strings.Join(names, ", ")
}

// onHost says whether the hook's path is one of the node in any of its stages.
func (f NodeFile) onHost() bool {
	return slices.ContainsFunc(f.Stages, func(s hookrun.Stage) bool { return s != hookrun.StartContainer })
}

// checkProgram looks whether the hook's program can be run and is root's alone. One that is started inside the container is
// looked for there, at the start.
func (f NodeFile) checkProgram() error {
	if !f.onHost() {
		return nil
	}
	info, err := os.Stat(f.Hook.Path)
	if err != nil {
		return fmt.Errorf("hook.path %s: %w", f.Hook.Path, withoutPath(err))
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
		return fmt.Errorf("hook.path %s is no executable file", f.Hook.Path)
	}
	err = trusted(info)
	if err == nil {
		err = trustedWay(f.Hook.Path)
	}
	if err != nil {
		return fmt.Errorf("hook.path %s: %w", f.Hook.Path, err)
	}
	return nil
}

// trustedWay refuses a path where somebody else than root could put another file: one of the folders that lead to it, or to
// what it is a link to, is somebody's. In a folder with the sticky bit, as /tmp, root's files stay root's.
func trustedWay(path string) error {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return withoutPath(err)
	}
	for _, p := range []string{path, real} {
		for dir := filepath.Dir(p); ; dir = filepath.Dir(dir) {
			info, err := os.Stat(dir)
			if err != nil {
				return withoutPath(err)
			}
			err = trusted(info)
			if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid == 0 && info.Mode()&os.ModeSticky != 0 {
				err = nil
			}
			if err != nil {
				return fmt.Errorf("folder %s: %w", dir, err)
			}
			if dir == "/" {
				break
			}
		}
	}
	return nil
}

// NodeStages are the stages that a file can name, in the order in which they come in a container's life.
func NodeStages() []hookrun.Stage {
	return []hookrun.Stage{
		hookrun.Prestart, hookrun.CreateRuntime, hookrun.CreateContainer, hookrun.StartContainer, hookrun.Poststart, hookrun.Poststop,
	}
}
