package server

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/cgrouptree"
	"github.com/cri-pouch/cri-pouch/richcontainer"
)

// richHandlers gives the modes of runtime handlers.
func (c Config) richHandlers() (map[string]richcontainer.Mode, error) {
	out := map[string]richcontainer.Mode{}
	for _, pair := range c.Rich.Handlers {
		name, mode, ok := strings.Cut(pair, "=")
		if !ok || !slices.Contains(richcontainer.Modes(), mode) {
			return nil, fmt.Errorf("%q is no mode for a handler, write HANDLER=MODE with one of %s", pair, strings.Join(richcontainer.Modes(), ", "))
		}
		if _, twice := out[name]; twice {
			return nil, fmt.Errorf("handler %q stands there twice", name)
		}
		if err := c.checkRichHandlers([]string{name}); err != nil {
			return nil, err
		}
		out[name] = richcontainer.Mode(mode)
	}
	return out, nil
}

// checkRichHandlers refuses handlers that no pod can name.
func (c Config) checkRichHandlers(names []string) error {
	for _, n := range names {
		if !slices.Contains(c.Runtime.Handlers, n) {
			return fmt.Errorf("%q is no runtime handler, add it to runtime.handlers", n)
		}
	}
	return checkHandlers(names)
}

func checkNamespaces(names []string) error {
	for _, n := range names {
		if !handlerName.MatchString(n) {
			return fmt.Errorf("%q is no DNS label, which a namespace's name must be", n)
		}
	}
	return nil
}

// richNode gives the room of rich containers what the administrator has settled.
func (c Config) richNode(binary string, pouchInit richcontainer.PouchInit, cgroupV2 bool, cgroups cgrouptree.Mounts) (richcontainer.Node, error) {
	handlers, err := c.richHandlers()
	if err != nil {
		return richcontainer.Node{}, err
	}
	files, err := openFiles(binary)
	if err != nil {
		return richcontainer.Node{}, err
	}
	unified, err := cgrouptree.FindUnified()
	if err != nil {
		return richcontainer.Node{}, err
	}
	return richcontainer.Node{
		PouchInit: pouchInit, CgroupV2: cgroupV2, SystemdHierarchy: cgroups["name=systemd"], Unified: unified.Mountpoint, OpenFiles: files, Handlers: handlers,
		RootNamespaces: c.Rich.RootNamespaces, RootHandlers: c.Rich.RootHandlers, ComponentsDir: c.Rich.ComponentsDir,
	}, nil
}

// openFiles gives the RLIMIT_NOFILE that containers inherit. Go raises a process's own at its start and gives the programs
// that it runs what it was before: so one is run for a look.
func openFiles(pouchInit string) (*specs.POSIXRlimit, error) {
	cmd := exec.Command(pouchInit, "hold")
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("run pouch-init: %w", err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	var l unix.Rlimit
	if err := unix.Prlimit(cmd.Process.Pid, unix.RLIMIT_NOFILE, nil, &l); err != nil {
		return nil, fmt.Errorf("look at the limit of open files: %w", err)
	}
	return &specs.POSIXRlimit{Type: "RLIMIT_NOFILE", Soft: l.Cur, Hard: l.Max}, nil
}
