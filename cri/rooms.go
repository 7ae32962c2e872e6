package cri

import (
	"context"
	"io"
	"net"

	"github.com/cri-pouch/cri-pouch/hooks"
	"github.com/cri-pouch/cri-pouch/network"
	"github.com/cri-pouch/cri-pouch/snapshot"
)

// Network is what the service needs of package network.
type Network interface {
	// Pin makes and pins the pod's namespaces and applies its sysctls. Pinning twice gives the same paths.
	Pin(ctx context.Context, pod network.Pod) (network.Namespaces, error)
	// Unpin removes the pins; what is already gone is no error.
	Unpin(ctx context.Context, sandboxID string) error
	// Namespaces gives the paths of the pod's pins, whether they exist or not.
	Namespaces(pod network.Pod) network.Namespaces
	// Attach runs CNI ADD for the pinned network namespace.
	Attach(ctx context.Context, pod network.Pod) (network.Attachment, error)
	// Detach runs CNI DEL; it can be repeated, also when the namespace is gone.
	Detach(ctx context.Context, pod network.Pod) error
	// Dial connects to a TCP port of the pod from inside it: at 127.0.0.1, else at ::1.
	Dial(ctx context.Context, pod network.Pod, port uint16) (*net.TCPConn, error)
	// WriteFiles makes hosts, resolv.conf and hostname of the pod.
	WriteFiles(ctx context.Context, pod network.Pod, a network.Attachment) (network.Files, error)
	// Files gives their paths.
	Files(sandboxID string) network.Files
	RemoveFiles(ctx context.Context, sandboxID string) error
	// Shm is the host folder of the pod's /dev/shm: a tmpfs made by Pin, or "/dev/shm" with the node's IPC namespace.
	Shm(pod network.Pod) string
	// Interfaces reads the counters of the pod's interfaces, the main one first; none on the host network.
	Interfaces(ctx context.Context, pod network.Pod) ([]network.Interface, error)
	// Ready is nil when a CNI configuration is loaded and its plugins can connect pods; its error is the reason and the fix.
	Ready(ctx context.Context) error
	// GC tells CNI which pods are still attached; all other attachments are released. network.ErrBusy: try again.
	GC(ctx context.Context, keep []network.Pod) error
	// SetPodCIDR is UpdateRuntimeConfig's pod CIDR.
	SetPodCIDR(cidr string) error
}

// PouchInit gives containers their pouch-init (package pouchinit).
type PouchInit interface {
	// Seal gives the path of a pouch-init for the container with this bundle alone, which
	// nothing inside can overwrite. Its folder has places for /proc and /dev, and nothing else.
	Seal(bundle string) (path string, err error)
}

// Images is what the service needs of package snapshot for images. Lookups answer from memory.
type Images interface {
	Pull(ctx context.Context, ref string, auth *snapshot.Auth) (snapshot.Image, error)
	// Get finds an image by ID, unique ID prefix of at least 3 characters, tag or digest reference; errdefs.ErrNotFound.
	Get(ctx context.Context, refOrID string) (snapshot.Image, error)
	List(ctx context.Context) ([]snapshot.Image, error)
	// Remove drops all names of the image; the content goes when nothing uses it. An absent image is no error.
	Remove(ctx context.Context, refOrID string) error
	FsInfo(ctx context.Context) (snapshot.FSUsage, error)
	Import(ctx context.Context, tar io.Reader) ([]snapshot.Image, error)
	// WatchPulls sends the pulls in progress whenever they change, until ctx ends.
	WatchPulls(ctx context.Context) <-chan []snapshot.PullProgress
}

// Rootfs is what the service needs of package snapshot for the root filesystems of containers. A container's record and
// its snapshot are one: made in one transaction, removed in one transaction.
type Rootfs interface {
	// Create makes the snapshot of container id on the image's top layer and stores record (opaque to it) with it.
	Create(ctx context.Context, r snapshot.NewRootfs) error
	// Adopt stores the record of a container whose snapshot is not known any more.
	Adopt(ctx context.Context, id string, record []byte) error
	// Stranded gives the containers that Adopt was called for and that are still there.
	Stranded(ctx context.Context) (ids []string, err error)
	// Update replaces the record.
	Update(ctx context.Context, id string, record []byte) error
	// Records gives all records by container ID.
	Records(ctx context.Context) (map[string][]byte, error)
	// Remove drops record and snapshot; an absent one is no error. It unmounts first.
	Remove(ctx context.Context, id string) error
	// RemoveInto is Remove that in the same commit replaces the record of a sandbox, if that one is there.
	RemoveInto(ctx context.Context, id, sandboxID string, sandboxRecord []byte) error
	// Mount mounts the root filesystem of the container and gives the path; a second Mount gives the same path.
	Mount(ctx context.Context, id string) (string, error)
	// Unmount takes the mount away; an absent one is no error.
	Unmount(ctx context.Context, id string) error
	// Usage is the size of the writable layer.
	Usage(ctx context.Context, id string) (snapshot.FSUsage, error)
}

// Volumes is what the service needs of package snapshot for the folders that outlive containers. Each belongs to a pod, by
// its UID, and to the containers of one name in it.
type Volumes interface {
	// Paths gives the paths of the volumes that containers of this name have had in the pod.
	Paths(ctx context.Context, pod, container string) ([]string, error)
	// Resolve follows a path inside a mounted root filesystem.
	Resolve(rootfs, path string) (snapshot.Place, error)
	// Prepare gives the volumes at the paths, making those that are missing from what the image has there.
	Prepare(ctx context.Context, r snapshot.NewVolumes) ([]snapshot.Volume, error)
	// Withdraw removes those that were made for a container that could not be created.
	Withdraw(ctx context.Context, pod, containerID string) error
	// Remove drops the volumes of a pod unless keep, asked when nobody can be making any, says that they are needed.
	Remove(ctx context.Context, pod string, keep func() bool) error
	// Sweep sets aside the volumes of unknown pods and those that were cut off in the making; Purge removes them.
	Sweep(known func(pod string) bool) error
	Purge(ctx context.Context) error
	// Usage is what the volumes of containers of this name take.
	Usage(ctx context.Context, pod, container string) (snapshot.FSUsage, error)
}

// NodeHooks is what the service needs of package hooks for the hooks that the node's administrator declares.
type NodeHooks interface {
	// Select gives the hooks for one container, in their order.
	Select(s hooks.NodeSubject) hooks.NodeSelection
	// List gives all files, those that are not used with the reason.
	List() []hooks.NodeFile
}

// SandboxRecords stores the records of sandboxes, each with the lease that holds its things.
type SandboxRecords interface {
	PutSandbox(ctx context.Context, id string, record []byte) error
	DeleteSandbox(ctx context.Context, id string) error
	Sandboxes(ctx context.Context) (map[string][]byte, error)
}
