package server

import (
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/sirupsen/logrus"

	"github.com/cri-pouch/cri-pouch/hooks"
	"github.com/cri-pouch/cri-pouch/internal/hookrun"
)

// Key is one setting.
type Key struct {
	Path string // as in TOML, dotted
	Flag string // name of the flag of `serve` that overrides it; empty: none
	Doc  string // sentences for the user
	// check says whether the value in c is a possible one.
	check func(c Config) error
}

// maxSocketPath is what fits sockaddr_un.sun_path with its final NUL (unix(7)).
const maxSocketPath = 107

// Keys gives all settings in the order of the default file.
func Keys() []Key {
	return []Key{
		{"root", "root", "Folder of everything that outlives a boot: images, snapshots, records. One daemon per root.",
			func(c Config) error { return checkFolder(c.Root) }},
		{"state", "state", "Folder of everything that must not outlive a boot: namespaces, sockets, bundles. Put it on a tmpfs. One daemon per state folder.",
			func(c Config) error {
				if within(c.Root, c.State) || within(c.State, c.Root) {
					return fmt.Errorf("%s and root %s lie in each other, keep them apart", c.State, c.Root)
				}
				return checkFolder(c.State)
			}},

		{"cri.socket", "socket", "Unix socket of CRI v1 and pouch.v1, mode 0660. Empty: cri-pouch.sock in the state folder.",
			func(c Config) error { return checkSocket(c.SocketPath()) }},
		{"cri.socket_group", "", "Group (name or number) that may use the socket, and so is root on this node. Empty: the daemon's own group.",
			func(Config) error { return nil }}, // looked up when the socket is made: a group may come later than the file
		{"cri.drain_timeout", "", "How long an ending daemon waits for the calls in progress before it cuts them off.",
			func(c Config) error { return checkDuration(c.CRI.DrainTimeout, 0, 10*time.Minute) }},

		{"streaming.address", "", "IP address that exec, attach and port-forward are served on. The kubelet on this node connects to it; others need no access.",
			func(c Config) error { return checkIP(c.Streaming.Address) }},
		{"streaming.port", "", "Its TCP port. 0: a free one, another at each start.",
			func(c Config) error { return checkRange(c.Streaming.Port, 0, 65535) }},
		{"streaming.tls_cert", "", "File with the certificate chain (PEM) that streams are served with. Empty: without TLS.",
			func(c Config) error { return checkOptionalPath(c.Streaming.TLSCert) }},
		{"streaming.tls_key", "", "File with the certificate's key (PEM).",
			func(c Config) error { return checkTLS(c.Streaming) }},
		{"streaming.idle_timeout", "", "A stream that carries nothing for so long is closed. 0s: never.",
			func(c Config) error { return checkDuration(c.Streaming.IdleTimeout, 0, 7*24*time.Hour) }},

		{"log.level", "log-level", "What is logged: error, warn, info, debug or trace. Read again on SIGHUP.",
			func(c Config) error { return checkOneOf(c.Log.Level, "error", "warn", "info", "debug", "trace") }},
		{"log.format", "", "How it is written: text or json.",
			func(c Config) error { return checkOneOf(c.Log.Format, "text", "json") }},

		{"metrics.address", "metrics-address", `HTTP address of Prometheus metrics at /metrics, as in "127.0.0.1:10255". Empty: none.`,
			func(c Config) error { return checkAddress(c.Metrics.Address) }},
		{"metrics.pprof", "", "Also serve Go's profiles at /debug/pprof. Only on a loopback address.",
			func(c Config) error { return checkPprof(c.Metrics) }},

		{"runtime.cgroup_driver", "", "Who makes cgroups: systemd, cgroupfs, or auto: systemd where it runs the node and cgroup v2 is mounted, else cgroupfs. The kubelet asks for it.",
			func(c Config) error { return checkOneOf(c.Runtime.CgroupDriver, "auto", "systemd", "cgroupfs") }},
		{"runtime.shim_binary", "shim-binary", "The shim. Empty: containerd-shim-pouch-v2 beside the daemon's executable, else in $PATH.",
			func(c Config) error { return checkOptionalPath(c.Runtime.ShimBinary) }},
		{"runtime.init_binary", "init-binary", "pouch-init. Empty: beside the daemon's executable, else in $PATH.",
			func(c Config) error { return checkOptionalPath(c.Runtime.InitBinary) }},
		{"runtime.handlers", "", `Further runtime handler names (RuntimeClass) that mean the same as the default one, as in ["runc"].`,
			func(c Config) error { return checkHandlers(c.Runtime.Handlers) }},
		{"runtime.seccomp_root", "", "Folder of the localhost seccomp profiles that pods give by a relative name.",
			func(c Config) error { return checkPath(c.Runtime.SeccompRoot) }},
		{"runtime.create_missing_host_paths", "", "A hostPath volume of no type whose path is absent gets a folder there, mode 0755, as other runtimes make it. false: the container is refused.",
			func(Config) error { return nil }},

		{"rich.handlers", "", `Modes of rich containers for runtime handlers, as in ["vm=systemd"]: systemd, sbin-init, dumb-init or none. Each handler must stand in runtime.handlers too. A pod's annotation counts before it.`,
			func(c Config) error { _, err := c.richHandlers(); return err }},
		{"rich.root_namespaces", "", "Namespaces whose rich containers may have an init that runs as root although CRI asks for another user or for no_new_privs. Who can make pods there is trusted with that.",
			func(c Config) error { return checkNamespaces(c.Rich.RootNamespaces) }},
		{"rich.root_handlers", "", "The same for all pods of these runtime handlers.",
			func(c Config) error { return c.checkRichHandlers(c.Rich.RootHandlers) }},
		{"rich.components_dir", "", "Folder with a NAME.toml for each component of the administrator's that rich containers can have (docs/rich-containers.md). It is read for each container.",
			func(c Config) error { return checkPath(c.Rich.ComponentsDir) }},

		{"hooks.max_timeout", "", "The greatest timeout that a pod may give one of its hooks; also what a hook has that gives none, where that is below 30s.",
			func(c Config) error { return checkDuration(c.Hooks.MaxTimeout, time.Second, hooks.PrestartLimit) }},
		{"hooks.grants", "", `What hooks of a namespace's pods may have beyond what their containers have, as in ["web=NET_ADMIN,uid:0"]: capabilities, and uid:NUMBER or uid:* for other users. Who can make pods there is trusted with that.`,
			func(c Config) error { _, err := hooks.ParseGrants(c.Hooks.Grants); return err }},
		{"hooks.hooks_dirs", "", "Folders of the node's own hooks: a JSON file each, as oci-hooks(5) has it (docs/node-hooks.md). They are watched and need not exist. A file of a later folder takes the place of one of the same name in an earlier one. Empty: none.",
			func(c Config) error { return checkHooksDirs(c.Hooks.Dirs) }},
		{"hooks.node_timeout", "", "How long a hook of the node may take whose file gives no timeout. Whole seconds.",
			func(c Config) error {
				return checkNodeTimeout(c.Hooks.NodeTimeout, time.Duration(c.Hooks.NodeTimeoutMax))
			}},
		{"hooks.node_timeout_max", "", "The most that a file can give. All hooks of the node together have 30s at the start of a container, and 30s after its end.",
			func(c Config) error { return checkNodeTimeout(c.Hooks.NodeTimeoutMax, hookrun.NodeStartLimit) }},

		{"network.cni_conf_dir", "cni-conf-dir", "Folder of CNI configurations; it is watched, the first in lexical order is used.",
			func(c Config) error { return checkPath(c.Network.CNIConfDir) }},
		{"network.cni_bin_dirs", "cni-bin-dir", "Folders of CNI plugins, the first that has a plugin wins.",
			func(c Config) error { return checkPaths(c.Network.CNIBinDirs) }},
		{"network.cni_cache_dir", "", "Folder of the results of CNI ADD, which DEL needs. Empty: cni in the root folder.",
			func(c Config) error { return checkOptionalPath(c.Network.CNICacheDir) }},

		{"images.registry_config_dir", "registry-config-dir", "Folder with one folder per registry host, each with a hosts.toml: mirrors, TLS, headers.",
			func(c Config) error { return checkPath(c.Images.RegistryConfigDir) }},
		{"images.max_concurrent_downloads", "", "Layers that one pull fetches at once, 1 to 64.",
			func(c Config) error { return checkRange(c.Images.MaxConcurrentDownloads, 1, 64) }},
		{"images.unpack_concurrency", "", "Layers that are unpacked at once, 1 to 64.",
			func(c Config) error { return checkRange(c.Images.UnpackConcurrency, 1, 64) }},
		{"images.pull_progress_timeout", "", "A pull that gets no byte for so long is given up.",
			func(c Config) error { return checkDuration(c.Images.PullProgressTimeout, time.Second, 24*time.Hour) }},
		{"images.pinned", "", "References of images that are reported as pinned: the kubelet's garbage collection spares them.",
			func(c Config) error { return checkReferences(c.Images.Pinned) }},

		{"upgrade.volume_seed_limit", "", `Bytes that the new volumes of one container may copy from its image, in all: as in "512MiB" or "1GiB".`,
			func(c Config) error { return checkSize(c.Upgrade.VolumeSeedLimit, 1<<20, 1<<40) }},
		{"upgrade.volume_seed_entries", "", "Files and folders that they may copy, 1000 to 10000000.",
			func(c Config) error { return checkRange(c.Upgrade.VolumeSeedEntries, 1000, 10_000_000) }},
	}
}

func checkPath(p string) error {
	switch {
	case p == "":
		return fmt.Errorf("it is empty, give an absolute path")
	case !filepath.IsAbs(p):
		return fmt.Errorf("%q is relative, give an absolute path", p)
	case filepath.Clean(p) != p:
		return fmt.Errorf("%q is not clean, write %q", p, filepath.Clean(p))
	case strings.ContainsAny(p, "\x00\n"):
		return fmt.Errorf("%q holds a NUL or a newline", p)
	}
	return nil
}

func checkOptionalPath(p string) error {
	if p == "" {
		return nil
	}
	return checkPath(p)
}

// checkFolder refuses folders whose mode the daemon must not change.
func checkFolder(p string) error {
	if err := checkPath(p); err != nil {
		return err
	}
	switch p {
	case "/", "/run", "/tmp", "/var", "/var/lib", "/var/run", "/etc", "/usr", "/home", "/root", "/proc", "/sys", "/dev":
		return fmt.Errorf("%q belongs to the system, give a folder of its own", p)
	}
	return nil
}

func checkPaths(ps []string) error {
	if len(ps) == 0 {
		return fmt.Errorf("the list is empty, give at least one folder")
	}
	for _, p := range ps {
		if err := checkPath(p); err != nil {
			return err
		}
	}
	return nil
}

func checkSocket(p string) error {
	if len(p) > maxSocketPath {
		return fmt.Errorf("%q has %d bytes, a unix socket's path has at most %d: give a shorter state folder or socket", p, len(p), maxSocketPath)
	}
	return checkPath(p)
}

func checkDuration(d Duration, low, high time.Duration) error {
	if v := time.Duration(d); v < low || v > high {
		return fmt.Errorf("%s is out of range, give %s to %s", v, low, high)
	}
	return nil
}

func checkRange(n, low, high int) error {
	if n < low || n > high {
		return fmt.Errorf("%d is out of range, give %d to %d", n, low, high)
	}
	return nil
}

func checkOneOf(s string, allowed ...string) error {
	for _, a := range allowed {
		if s == a {
			return nil
		}
	}
	return fmt.Errorf("%q is none of %s", s, strings.Join(allowed, ", "))
}

func checkAddress(a string) error {
	if a == "" {
		return nil
	}
	if _, err := net.ResolveTCPAddr("tcp", numericHost(a)); err != nil {
		return fmt.Errorf(`%q is no HTTP address, write as in "127.0.0.1:10255"`, a)
	}
	return nil
}

func checkIP(a string) error {
	if net.ParseIP(a) == nil {
		return fmt.Errorf(`%q is no IP address, write as in "127.0.0.1"`, a)
	}
	return nil
}

func checkTLS(s Streaming) error {
	if (s.TLSCert == "") != (s.TLSKey == "") {
		return fmt.Errorf("give streaming.tls_cert and streaming.tls_key, or neither")
	}
	return checkOptionalPath(s.TLSKey)
}

// numericHost replaces a host name, so that a check of the form asks no name server.
func numericHost(a string) string {
	host, port, err := net.SplitHostPort(a)
	if err != nil || host == "" || net.ParseIP(host) != nil {
		return a
	}
	return net.JoinHostPort("127.0.0.1", port)
}

func checkPprof(m Metrics) error {
	if !m.Pprof {
		return nil
	}
	if m.Address == "" {
		return fmt.Errorf("it needs metrics.address")
	}
	host, _, _ := net.SplitHostPort(m.Address)
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("profiles show memory of the daemon: metrics.address must be on loopback, not %q", m.Address)
	}
	return nil
}

// handlerName is what Kubernetes allows as RuntimeClass.handler (a DNS label).
var handlerName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

func checkHandlers(names []string) error {
	seen := map[string]bool{}
	for _, n := range names {
		if !handlerName.MatchString(n) {
			return fmt.Errorf("%q is no DNS label, which a RuntimeClass handler must be", n)
		}
		if seen[n] {
			return fmt.Errorf("%q stands there twice", n)
		}
		seen[n] = true
	}
	return nil
}

func checkReferences(refs []string) error {
	for _, r := range refs {
		if _, err := reference.ParseDockerRef(r); err != nil {
			return fmt.Errorf("%q is no image reference: %w", r, err)
		}
	}
	return nil
}

// within says whether path is dir or lies below it.
func within(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

// level gives logrus's level of a checked configuration.
func (l Log) level() logrus.Level {
	v, err := logrus.ParseLevel(l.Level)
	if err != nil {
		return logrus.InfoLevel
	}
	return v
}
