// Package lab puts together what the integration tests and the quickstart run against: images made from local packages,
// a registry on loopback, a CNI network of its own, and a cri-pouch daemon on a throwaway root, state and socket. Nothing
// here leaves the machine, and everything that a Lab made goes with Close.
package lab

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/cri-pouch/cri-pouch/internal/undo"
)

// Domain is the registry name under which the lab's images are known to the daemon; hosts.toml leads it to loopback.
const Domain = "images.test"

// Options say what a Lab is made of.
type Options struct {
	Binary   string   // path of cri-pouch; the shim and pouch-init stand beside it
	CNIBin   string   // folder with the plugins bridge, host-local and portmap
	Env      []string // added to the daemon's environment
	Config   string   // TOML of the daemon's configuration file
	Root     string   // the daemon's root folder; empty: one of the lab's own
	NoCNI    bool     // the folder of the CNI configuration stays empty
	Systemd  bool     // cgroups are made by systemd, not by writing to cgroupfs
	Registry RegistryOptions
}

// Lab is a daemon with everything around it.
type Lab struct {
	Options
	Name    string // unique on the machine; bridge, cgroup and folders carry it
	Dir     string // folder of everything below
	Network *Network
	Images  *Registry
	Daemon  *Daemon
	undo    undo.Stack
}

// New makes the surroundings and a daemon that is not started yet. On an error nothing is left behind.
func New(ctx context.Context, o Options) (_ *Lab, err error) {
	var b [4]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, err
	}
	l := &Lab{Options: o, Name: "cpt" + hex.EncodeToString(b[:])}
	defer func() {
		if err != nil {
			_ = l.undo.Run(ctx, time.Minute)
		}
	}()
	if l.Dir, err = os.MkdirTemp("", l.Name+"-"); err != nil {
		return nil, err
	}
	l.undo.Add("remove the lab's folder", func(context.Context) error { return removeTree(l.Dir) })
	// A user namespaced container reaches its root filesystem through this folder.
	if err := os.Chmod(l.Dir, 0o711); err != nil {
		return nil, err
	}
	for _, dir := range []string{l.CNIConfDir(), l.RegistryDir(), l.LogDir()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	l.undo.Add("remove cgroups", func(context.Context) error { return removeCgroups(l.Name) })
	if l.Network, err = newNetwork(l.Name, l.Dir); err != nil {
		return nil, err
	}
	l.undo.Add("remove bridge", func(context.Context) error { return l.Network.remove() })
	if !o.NoCNI {
		if err := l.Network.WriteConf(l.CNIConfDir()); err != nil {
			return nil, err
		}
	}
	if l.Images, err = NewRegistry(o.Registry); err != nil {
		return nil, err
	}
	l.undo.Add("close registry", func(context.Context) error { return l.Images.Close() })
	if err := l.Images.WriteHosts(l.RegistryDir(), Domain); err != nil {
		return nil, err
	}
	l.Daemon = newDaemon(l)
	l.undo.Add("end daemon and shim", func(ctx context.Context) error { return l.Daemon.end(ctx) })
	return l, nil
}

// Close ends daemon, shim and whatever containers are left, and removes everything. Its error names what would not go.
func (l *Lab) Close(ctx context.Context) error { return l.undo.Run(ctx, 2*time.Minute) }

// RootDir is the daemon's --root.
func (l *Lab) RootDir() string {
	if l.Root != "" {
		return l.Root
	}
	return filepath.Join(l.Dir, "root")
}

// StateDir is the daemon's --state.
func (l *Lab) StateDir() string { return filepath.Join(l.Dir, "state") }

// Socket is the path of the daemon's CRI socket.
func (l *Lab) Socket() string { return filepath.Join(l.Dir, "cri.sock") }

// CNIConfDir is the folder of the CNI configuration.
func (l *Lab) CNIConfDir() string { return filepath.Join(l.Dir, "cni") }

// LogDir is the folder below which pods have their logs.
func (l *Lab) LogDir() string { return filepath.Join(l.Dir, "logs") }

// CgroupParent is the parent of the pods' cgroups, for LinuxPodSandboxConfig.CgroupParent.
func (l *Lab) CgroupParent() string {
	if l.Systemd {
		return l.Name + ".slice"
	}
	return "/" + l.Name
}

// writeConfig writes the daemon's configuration: the lab's own part, and beside it the test's.
func (l *Lab) writeConfig() error {
	driver := "cgroupfs"
	if l.Systemd {
		driver = "systemd"
	}
	drop := filepath.Join(l.Dir, "config.d")
	if err := os.MkdirAll(drop, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(drop, "10-lab.toml"), fmt.Appendf(nil, "[runtime]\ncgroup_driver = %q\n", driver), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(l.Dir, "config.toml"), []byte(l.Config), 0o644)
}

// RegistryDir is the folder that leads the lab's image names to its registry (hosts.toml).
func (l *Lab) RegistryDir() string { return filepath.Join(l.Dir, "certs.d") }

// Ref gives the reference of an image in the lab's registry, as Ref("busybox:1").
func (l *Lab) Ref(nameTag string) string { return fmt.Sprintf("%s/%s", Domain, nameTag) }
