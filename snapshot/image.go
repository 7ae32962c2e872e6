// Package snapshot stores images and the root filesystems of containers: pull, import, unpack, list, remove, and the
// snapshot that a container writes to. It knows nothing of the kubelet or of gRPC.
package snapshot

import (
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is an image whose every layer is present and unpacked.
type Image struct {
	ID          string   // sha256:… of its configuration
	RepoTags    []string // docker.io/library/busybox:1.36
	RepoDigests []string // docker.io/library/busybox@sha256:…
	Size        int64    // bytes of content (manifest, configuration, layers as transferred)
	Manifest    string   // digest of the manifest of this platform
	ChainID     string   // key of its topmost snapshot; empty for an image without layers
	Config      ocispec.Image
	Pinned      bool
}

// Auth are the credentials of one pull (CRI AuthConfig). They are kept in memory only.
type Auth struct {
	Username, Password, IdentityToken, RegistryToken string
	// ServerAddress, where given, is the only host that may get them.
	ServerAddress string
}

// PullProgress is the state of a pull that goes on.
type PullProgress struct {
	Ref       string
	StartedAt time.Time
	Total     int64 // bytes to transfer, as far as known
	Done      int64 // bytes transferred or already present
	Layers    int
	Unpacked  int
}

// FSUsage is the use of the folder that images (or containers) live in.
type FSUsage struct {
	Mountpoint string
	Bytes      uint64
	Inodes     uint64
	Time       time.Time
}

// NewRootfs says what root filesystem to make for a container.
type NewRootfs struct {
	ID       string // container ID
	ImageID  string
	Manifest string // digest kept as long as the container's record (gc.ref.content)
	ChainID  string // parent snapshot; empty: an empty root filesystem
	Record   []byte
	Labels   map[string]string // of the container object, for tools that look into the store
	// UIDs and GIDs of the pod's user namespace (container, host, length); empty: none. The layers are shared by
	// idmapped mounts.
	UIDs, GIDs []IDMapping
}

// IDMapping maps Length IDs from ContainerID on to HostID on.
type IDMapping struct {
	ContainerID, HostID, Length uint32
}
