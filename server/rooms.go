package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"github.com/cri-pouch/cri-pouch/cri"
	"github.com/cri-pouch/cri-pouch/cri/spec"
	"github.com/cri-pouch/cri-pouch/engine"
	"github.com/cri-pouch/cri-pouch/internal/cgrouptree"
	"github.com/cri-pouch/cri-pouch/internal/journal"
	"github.com/cri-pouch/cri-pouch/internal/pouchinit"
	"github.com/cri-pouch/cri-pouch/network"
	"github.com/cri-pouch/cri-pouch/shim/client"
	"github.com/cri-pouch/cri-pouch/snapshot"
)

// engineDir is the folder of containerd's stores in the root.
const engineDir = "engine"

// journalDir is the folder of the journal in the root.
const journalDir = "journal"

// shimLimit bounds the first connection to the shim, with all that a dead one left to clean up.
const shimLimit = time.Minute

// rooms are the parts below the socket, put together.
type rooms struct {
	service *cri.Service
	engine  *engine.Engine
	closers []closer // in the order of opening
}

type closer struct {
	what string
	fn   func() error
}

// openRooms opens the parts in the order in which they need each other. They live until close, not until ctx ends: calls
// in progress need them while the daemon drains.
func openRooms(ctx context.Context, o Options, registry prometheus.Registerer) (_ *rooms, err error) {
	ctx = context.WithoutCancel(ctx)
	c := o.Config
	r := &rooms{}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	// What the administrator has to mend first is looked at before anything is opened.
	systemd, err := systemdCgroup(c.Runtime.CgroupDriver, probeHost())
	if err != nil {
		return nil, err
	}
	programs, err := findPrograms(c.Runtime)
	if err != nil {
		return nil, err
	}
	node, err := spec.DetectNode()
	if err != nil {
		return nil, fmt.Errorf("look at the node: %w", err)
	}
	cgroups, err := cgrouptree.FindMounts()
	if err != nil {
		return nil, err
	}
	node.SystemdCgroup, node.SeccompRoot, node.CreateMissingHostPaths = systemd, c.Runtime.SeccompRoot, c.Runtime.CreateMissingHostPaths
	pouchInit, err := pouchinit.Open(c.State, programs.init)
	if err != nil {
		return nil, err
	}
	rich, err := c.richNode(programs.init, pouchInit, node.CgroupV2, cgroups)
	if err != nil {
		return nil, err
	}

	if r.engine, err = openEngine(ctx, o); err != nil {
		return nil, err
	}
	r.add("engine", r.engine.Close)
	images, err := snapshot.Open(ctx, snapshot.Options{
		Engine: r.engine, StateDir: c.State, RegistryConfigDir: c.Images.RegistryConfigDir,
		MaxConcurrentDownloads: c.Images.MaxConcurrentDownloads, UnpackConcurrency: c.Images.UnpackConcurrency,
		PullProgressTimeout: time.Duration(c.Images.PullProgressTimeout), PinnedImages: c.Images.Pinned,
		VolumeDir: filepath.Join(c.Root, "volumes"), VolumeSeedBytes: int64(c.Upgrade.VolumeSeedLimit), VolumeSeedEntries: c.Upgrade.VolumeSeedEntries,
		Log: o.Log.WithField("room", "snapshot"),
	})
	if err != nil {
		return nil, err
	}
	r.add("images", images.Close)
	noUserNamespaces := images.Rootfs().UserNamespaces()
	if noUserNamespaces != nil {
		o.Log.WithError(noUserNamespaces).Warn("pods cannot have user namespaces of their own on this node")
	}
	net, err := network.New(ctx, network.Options{
		StateDir: c.State, CNIConfDir: c.Network.CNIConfDir, CNIBinDirs: c.Network.CNIBinDirs, CNICacheDir: c.CNICachePath(),
		Log: o.Log.WithField("room", "network"),
	})
	if err != nil {
		return nil, err
	}
	r.add("network", net.Close)
	shim, err := startShim(ctx, o, programs.shim)
	if err != nil {
		return nil, err
	}
	r.add("connection to the shim", shim.Close)
	nodeHooks := c.openNodeHooks(o.Log.WithField("room", "hooks"), registry)
	r.add("the node's hooks", func() error { nodeHooks.Close(); return nil })
	damaged, err := filepath.Glob(filepath.Join(c.Root, engineDir+".damaged-*"))
	if err != nil {
		return nil, err
	}
	r.service = cri.New(cri.Options{
		StateDir: c.State, DamagedStores: damaged, Version: o.Version, PouchInit: pouchInit, SystemdCgroup: systemd, Handlers: c.Runtime.Handlers,
		Runtime: shim, Network: net, Images: images, Rootfs: images.Rootfs(), Volumes: images.Volumes(), Records: images, Spec: spec.NewBuilder(node), Rich: rich,
		NoUserNamespaces: noUserNamespaces, Hooks: c.hookRules(), NodeHooks: nodeHooks,
		Cgroups: cgroups, Log: o.Log.WithField("room", "cri"), Journal: r.openJournal(o), Metrics: registry,
	})
	r.add("service", func() error { r.service.Close(); return nil })
	streams, err := openStreams(c.Streaming, r.service.StreamBackend(), o.Log.WithField("room", "streams"))
	if err != nil {
		return nil, err
	}
	r.add("streams", streams.close)
	r.service.SetStreams(streams.server)
	return r, nil
}

// openEngine opens the stores. Damaged ones are set aside, for containers run without them: their root filesystems are mounted,
// their records have copies in the state folder.
func openEngine(ctx context.Context, o Options) (*engine.Engine, error) {
	opts := engine.Options{Root: filepath.Join(o.Config.Root, engineDir), Log: o.Log.WithField("room", "engine")}
	e, err := engine.Open(ctx, opts)
	if !errdefs.IsDataLoss(err) {
		return e, err
	}
	aside, asideErr := engine.SetAside(opts.Root, time.Now())
	if asideErr != nil {
		return nil, errors.Join(err, asideErr)
	}
	opts.Log.WithError(err).Errorf("the store is damaged: it is set aside as %s and a new one is begun; containers run on, images are pulled anew", aside)
	return engine.Open(ctx, opts)
}

// openJournal opens the journal. Pods run without one too.
func (r *rooms) openJournal(o Options) *journal.Journal {
	j, err := journal.Open(filepath.Join(o.Config.Root, journalDir))
	if err != nil {
		o.Log.WithError(err).Error("what happens to containers is not kept")
		return nil
	}
	r.add("journal", j.Close)
	return j
}

// startShim connects to the node's shim, or starts it.
func startShim(ctx context.Context, o Options, binary string) (*client.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, shimLimit)
	defer cancel()
	c, err := client.Start(ctx, client.Options{
		Binary: binary, StateDir: o.Config.State, Log: o.Log.WithField("room", "shim"),
		Debug: o.Log.Logger.IsLevelEnabled(logrus.DebugLevel),
	})
	if err != nil {
		return nil, fmt.Errorf("start the shim: %w", err)
	}
	return c, nil
}

// recover rebuilds what the service knows from the records and the shim, and only then lets the engine collect garbage.
func (r *rooms) recover(ctx context.Context) error {
	if err := r.service.Recover(ctx); err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	return r.engine.StartCollecting(ctx)
}

func (r *rooms) add(what string, fn func() error) {
	r.closers = append(r.closers, closer{what, fn})
}

// close ends the parts, the last opened first. Containers and shim go on.
func (r *rooms) close() error {
	var errs []error
	for i := len(r.closers) - 1; i >= 0; i-- {
		if err := r.closers[i].fn(); err != nil {
			errs = append(errs, fmt.Errorf("close %s: %w", r.closers[i].what, err))
		}
	}
	r.closers = nil
	return errors.Join(errs...)
}

// programs are the helpers, by absolute path.
type programs struct{ shim, init string }

func findPrograms(c Runtime) (p programs, err error) {
	executable, err := os.Executable()
	if err != nil {
		return p, fmt.Errorf("find the daemon's own executable: %w", err)
	}
	if p.shim, err = findBinary(c.ShimBinary, "containerd-shim-pouch-v2", "runtime.shim_binary", executable); err != nil {
		return p, err
	}
	p.init, err = findBinary(c.InitBinary, "pouch-init", "runtime.init_binary", executable)
	return p, err
}
