// Package network gives a pod its namespaces (net, ipc, uts, user), pinned as files so that no process has to hold
// them, and its place in the network through CNI. It knows nothing of containers.
package network

import "net/netip"

// IDMapping maps Length IDs from ContainerID on to HostID on (user_namespaces(7)).
type IDMapping struct {
	ContainerID, HostID, Length uint32
}

// PortMapping is one port of the host that leads to one of the pod's.
type PortMapping struct {
	Protocol      string // "tcp", "udp", "sctp"
	ContainerPort int32
	HostPort      int32
	HostIP        string
}

// DNS is the content of a resolv.conf.
type DNS struct {
	Servers, Searches, Options []string
}

// Pod is what a sandbox asks of the network.
type Pod struct {
	ID           string // sandbox ID
	Namespace    string
	Name         string
	UID          string
	Hostname     string // empty on the host network: the node's
	HostNetwork  bool   // the node's network and UTS namespaces
	HostIPC      bool
	UIDs, GIDs   []IDMapping       // the pod's user namespace; empty: the host's
	Sysctls      map[string]string // of the net, ipc and uts namespaces
	DNS          *DNS              // nil: the node's resolv.conf
	PortMappings []PortMapping
	Annotations  map[string]string // kubernetes.io/{ingress,egress}-bandwidth among them
	Labels       map[string]string
}

// Namespaces are the paths of a pod's pinned namespaces; an empty path is the node's own namespace.
type Namespaces struct {
	Net, IPC, UTS, User string
}

// Files are the paths of the files that each container of a pod sees under /etc.
type Files struct {
	Hosts, ResolvConf, Hostname string
}

// Attachment is a pod's place in the network after CNI ADD.
type Attachment struct {
	IPs    []netip.Addr // primary first
	Result []byte       // JSON of the CNI result
}
