// Package cri serves CRI v1 and cri-pouch's own pouch.v1: one file per RPC. Handlers fetch, validate, delegate and return
// plain errors that wrap a class of errdefs; package server turns these into gRPC codes, logs and counts at one edge.
package cri

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
	"github.com/cri-pouch/cri-pouch/cri/spec"
	"github.com/cri-pouch/cri-pouch/hooks"
	"github.com/cri-pouch/cri-pouch/internal/cgrouptree"
	"github.com/cri-pouch/cri-pouch/internal/journal"
	"github.com/cri-pouch/cri-pouch/internal/mountpoint"
	"github.com/cri-pouch/cri-pouch/internal/pouchinit"
	"github.com/cri-pouch/cri-pouch/internal/richrun"
	"github.com/cri-pouch/cri-pouch/richcontainer"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

// Limits of the work that goes on when its client has given up. The kubelet waits 4 minutes for RunPodSandbox and 2 for
// the others.
const (
	sandboxLimit   = 4 * time.Minute
	containerLimit = 2 * time.Minute
	undoLimit      = time.Minute
	// defaultUntold is how long an object that no client was told of waits for a retry.
	defaultUntold = 5 * time.Minute
)

// Options are the parts that a Service is made of.
type Options struct {
	StateDir      string   // tmpfs folder of the daemon, as /run/cri-pouch
	DamagedStores []string // folders that were set aside, in the root
	Version       string   // of this program
	PouchInit     PouchInit
	SystemdCgroup bool
	Handlers      []string // runtime handler names besides ""
	Runtime       task.Runtime
	Network       Network
	Images        Images
	Rootfs        Rootfs
	Volumes       Volumes
	Records       SandboxRecords
	Spec          *spec.Builder
	Rich          richcontainer.Node // its zero value serves no rich container
	Hooks         hooks.Rules        // its zero value allows hooks what their containers have
	NodeHooks     NodeHooks          // nil: the node has none
	Cgroups       cgrouptree.Mounts  // nil: a pod's use is the sum of its containers'
	Log           *logrus.Entry
	Journal       *journal.Journal      // nil: nothing is kept
	Metrics       prometheus.Registerer // nil: nothing is counted
	// UntoldTimeout is how long a created object whose client gave up is kept for a retry; 0 means 5 minutes.
	UntoldTimeout time.Duration
	// NoUserNamespaces says why pods cannot have a user namespace of their own; nil: they can.
	NoUserNamespaces error
}

// Service answers CRI and pouch.v1.
type Service struct {
	runtime.UnimplementedRuntimeServiceServer
	runtime.UnimplementedImageServiceServer
	pouchv1.UnimplementedPouchServer

	Options
	index          *index
	findings       *findings
	repairing      sync.Mutex // held by who repairs a finding
	sandboxNames   *names
	containerNames *names
	clock          ticker
	chores         *chores
	events         *broadcast
	upgrades       *upgradeMetrics
	nodeFailures   *prometheus.CounterVec
	followers      *followers
	hookFigures    *hookMetrics
	bootID         string
	streams        Streams
	execOutputs    *execOutputs
}

// New puts a Service together. Recover must be called before it serves, Close when it has stopped serving.
func New(o Options) *Service {
	if o.UntoldTimeout == 0 {
		o.UntoldTimeout = defaultUntold
	}
	s := &Service{
		Options: o, index: newIndex(), chores: newChores(o.Log), events: newBroadcast(), upgrades: newUpgradeMetrics(o.Metrics), hookFigures: newHookMetrics(o.Metrics), bootID: readBootID(),
		execOutputs: newExecOutputs(o.Log), findings: newFindings(o.Metrics),
		sandboxNames: newNames(o.UntoldTimeout), containerNames: newNames(o.UntoldTimeout),
	}
	s.nodeFailures = newNodeHookFailures(o.Metrics)
	s.followers = newFollowers(s)
	return s
}

// SetStreams says who gives the URLs of streams. It must be called before the service serves.
func (s *Service) SetStreams(streams Streams) { s.streams = streams }

// Close ends the background work; containers go on.
func (s *Service) Close() {
	s.chores.stop()
	s.followers.close()
}

// knownHandler says whether name is a runtime handler of this node.
func (s *Service) knownHandler(name string) bool {
	return name == "" || slices.Contains(s.Handlers, name)
}

// bundleDir is where a container's OCI bundle stands.
func (s *Service) bundleDir(id string) string {
	return filepath.Join(s.StateDir, "containers", id)
}

// removeBundle removes it with the mounts in it; what is already gone is no error.
func (s *Service) removeBundle(id string) error {
	dir := s.bundleDir(id)
	err := errors.Join(richcontainer.Unseal(dir), pouchinit.Unseal(dir), mountpoint.Clear(filepath.Join(dir, richrun.Dir)))
	if err != nil {
		return err
	}
	return os.RemoveAll(dir)
}
