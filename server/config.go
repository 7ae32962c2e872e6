// Package server is the daemon around the rooms: it reads the configuration, locks the root, builds the parts, recovers,
// serves CRI and pouch.v1 on one socket behind one gRPC edge, and ends in order. It knows nothing of CRI's semantics.
package server

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/cri-pouch/cri-pouch/hooks"
	"github.com/cri-pouch/cri-pouch/internal/hookrun"
)

// Config is everything that can be set, by TOML path. Every key has a row in keys(), with its documentation and its
// check; a test compares the two.
type Config struct {
	Root      string    `toml:"root"`
	State     string    `toml:"state"`
	CRI       CRI       `toml:"cri"`
	Streaming Streaming `toml:"streaming"`
	Log       Log       `toml:"log"`
	Metrics   Metrics   `toml:"metrics"`
	Runtime   Runtime   `toml:"runtime"`
	Rich      Rich      `toml:"rich"`
	Hooks     Hooks     `toml:"hooks"`
	Network   Network   `toml:"network"`
	Images    Images    `toml:"images"`
	Upgrade   Upgrade   `toml:"upgrade"`
}

// CRI says how clients reach the daemon.
type CRI struct {
	Socket       string   `toml:"socket"`
	SocketGroup  string   `toml:"socket_group"`
	DrainTimeout Duration `toml:"drain_timeout"`
}

// Streaming is the HTTP listener of exec, attach and port-forward.
type Streaming struct {
	Address     string   `toml:"address"`
	Port        int      `toml:"port"`
	TLSCert     string   `toml:"tls_cert"`
	TLSKey      string   `toml:"tls_key"`
	IdleTimeout Duration `toml:"idle_timeout"`
}

// Log says what is logged.
type Log struct {
	Level  string `toml:"level"`
	Format string `toml:"format"`
}

// Metrics is the optional HTTP listener.
type Metrics struct {
	Address string `toml:"address"`
	Pprof   bool   `toml:"pprof"`
}

// Runtime says how containers are run.
type Runtime struct {
	CgroupDriver string   `toml:"cgroup_driver"`
	ShimBinary   string   `toml:"shim_binary"`
	InitBinary   string   `toml:"init_binary"`
	Handlers     []string `toml:"handlers"`
	SeccompRoot  string   `toml:"seccomp_root"`

	CreateMissingHostPaths bool `toml:"create_missing_host_paths"`
}

// Rich says what rich containers may do.
type Rich struct {
	Handlers       []string `toml:"handlers"`
	RootNamespaces []string `toml:"root_namespaces"`
	RootHandlers   []string `toml:"root_handlers"`
	ComponentsDir  string   `toml:"components_dir"`
}

// Hooks says what the hooks of pods may have, and where the node's own are declared.
type Hooks struct {
	MaxTimeout     Duration `toml:"max_timeout"`
	Grants         []string `toml:"grants"`
	Dirs           []string `toml:"hooks_dirs"`
	NodeTimeout    Duration `toml:"node_timeout"`
	NodeTimeoutMax Duration `toml:"node_timeout_max"`
}

// Network says where CNI's parts are.
type Network struct {
	CNIConfDir  string   `toml:"cni_conf_dir"`
	CNIBinDirs  []string `toml:"cni_bin_dirs"`
	CNICacheDir string   `toml:"cni_cache_dir"`
}

// Images says how images are fetched.
type Images struct {
	RegistryConfigDir      string   `toml:"registry_config_dir"`
	MaxConcurrentDownloads int      `toml:"max_concurrent_downloads"`
	UnpackConcurrency      int      `toml:"unpack_concurrency"`
	PullProgressTimeout    Duration `toml:"pull_progress_timeout"`
	Pinned                 []string `toml:"pinned"`
}

// Upgrade says what a container's successor gets.
type Upgrade struct {
	VolumeSeedLimit   Size `toml:"volume_seed_limit"`
	VolumeSeedEntries int  `toml:"volume_seed_entries"`
}

// Duration is a time.Duration that is written as in "30s" or "5m".
type Duration time.Duration

// UnmarshalText reads the notation of time.ParseDuration.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf(`%q is no duration, write as in "30s" or "5m"`, b)
	}
	*d = Duration(v)
	return nil
}

// String writes what UnmarshalText reads.
func (d Duration) String() string {
	s := time.Duration(d).String()
	if rest, ok := strings.CutSuffix(s, "m0s"); ok {
		s = rest + "m"
	}
	if rest, ok := strings.CutSuffix(s, "h0m"); ok {
		s = rest + "h"
	}
	return s
}

// Default gives the configuration of a daemon that no file and no flag says anything to.
func Default() Config {
	return Config{
		Root:  "/var/lib/cri-pouch",
		State: "/run/cri-pouch",
		CRI:   CRI{DrainTimeout: Duration(10 * time.Second)},
		// The kubelet's own limit (streamingConnectionIdleTimeout) has the same default.
		Streaming: Streaming{Address: "127.0.0.1", IdleTimeout: Duration(4 * time.Hour)},
		Log:       Log{Level: "info", Format: "text"},
		Runtime: Runtime{
			CgroupDriver: "auto", Handlers: []string{}, SeccompRoot: "/var/lib/kubelet/seccomp",
			CreateMissingHostPaths: true,
		},
		Rich: Rich{Handlers: []string{}, RootNamespaces: []string{}, RootHandlers: []string{}, ComponentsDir: "/etc/cri-pouch/components.d"},
		Hooks: Hooks{
			MaxTimeout: Duration(hooks.PrestartLimit), Grants: []string{},
			Dirs:        []string{"/usr/share/containers/oci/hooks.d", "/etc/containers/oci/hooks.d"},
			NodeTimeout: Duration(10 * time.Second), NodeTimeoutMax: Duration(hookrun.NodeStartLimit),
		},
		Network: Network{CNIConfDir: "/etc/cni/net.d", CNIBinDirs: []string{"/opt/cni/bin", "/usr/lib/cni"}},
		Images: Images{
			RegistryConfigDir: "/etc/cri-pouch/certs.d", MaxConcurrentDownloads: 4, UnpackConcurrency: 2,
			PullProgressTimeout: Duration(5 * time.Minute), Pinned: []string{},
		},
		Upgrade: Upgrade{VolumeSeedLimit: 1 << 30, VolumeSeedEntries: 250_000},
	}
}

// SocketPath is where the daemon listens.
func (c Config) SocketPath() string {
	if c.CRI.Socket != "" {
		return c.CRI.Socket
	}
	return filepath.Join(c.State, "cri-pouch.sock")
}

// CNICachePath is where CNI keeps the results of ADD.
func (c Config) CNICachePath() string {
	if c.Network.CNICacheDir != "" {
		return c.Network.CNICacheDir
	}
	return filepath.Join(c.Root, "cni")
}
