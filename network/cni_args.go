package network

import (
	"fmt"
	"math"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// argValues keeps values of CNI_ARGS ("K=V;K=V") from bringing arguments of their own.
var argValues = regexp.MustCompile(`^[a-zA-Z0-9_.:@/-]{0,253}$`)

// cniArgs are the arguments that plugins for Kubernetes know; others are told to ignore them.
func cniArgs(pod Pod) ([][2]string, error) {
	args := [][2]string{
		{"IgnoreUnknown", "1"},
		{"K8S_POD_NAMESPACE", pod.Namespace},
		{"K8S_POD_NAME", pod.Name},
		{"K8S_POD_INFRA_CONTAINER_ID", pod.ID},
		{"K8S_POD_UID", pod.UID},
	}
	for _, a := range args {
		if !argValues.MatchString(a[1]) {
			return nil, fmt.Errorf("%s %.80q cannot be passed to CNI plugins: at most 253 letters, digits and _ . : @ / -: %w", a[0], a[1], errdefs.ErrInvalidArgument)
		}
	}
	return args, nil
}

// The capability arguments of CNI's conventions (CONVENTIONS.md, "Dynamic Plugin specific fields"). go-cni's own types
// have no JSON names and rely on plugins that read Go's way.
type (
	cniPort struct {
		HostPort      int32  `json:"hostPort"`
		ContainerPort int32  `json:"containerPort"`
		Protocol      string `json:"protocol"`
		HostIP        string `json:"hostIP,omitempty"`
	}
	// cniBandwidth is in bits per second and bits.
	cniBandwidth struct {
		IngressRate  uint64 `json:"ingressRate,omitempty"`
		IngressBurst uint64 `json:"ingressBurst,omitempty"`
		EgressRate   uint64 `json:"egressRate,omitempty"`
		EgressBurst  uint64 `json:"egressBurst,omitempty"`
	}
	cniDNS struct {
		Servers  []string `json:"servers,omitempty"`
		Searches []string `json:"searches,omitempty"`
		Options  []string `json:"options,omitempty"`
	}
)

// capabilities gives the capability arguments of pod; libcni passes each on to the plugins that declare it.
func capabilities(pod Pod) (map[string]any, error) {
	args := map[string]any{}
	ports, err := cniPorts(pod.PortMappings)
	if err != nil {
		return nil, err
	}
	if len(ports) > 0 {
		args["portMappings"] = ports
	}
	bandwidth, err := podBandwidth(pod.Annotations)
	if err != nil {
		return nil, err
	}
	if bandwidth != (cniBandwidth{}) {
		args["bandwidth"] = bandwidth
	}
	if pod.DNS != nil {
		args["dns"] = cniDNS(*pod.DNS)
	}
	return args, nil
}

const portMappingsMax = 4096

// cniPorts takes over the mappings that have a host port; the others say only what the pod listens on.
func cniPorts(mappings []PortMapping) ([]cniPort, error) {
	if len(mappings) > portMappingsMax {
		return nil, fmt.Errorf("%d port mappings, at most %d are taken: %w", len(mappings), portMappingsMax, errdefs.ErrInvalidArgument)
	}
	var ports []cniPort
	for _, p := range mappings {
		if p.HostPort == 0 {
			continue
		}
		if p.HostPort < 1 || p.HostPort > math.MaxUint16 || p.ContainerPort < 1 || p.ContainerPort > math.MaxUint16 {
			return nil, fmt.Errorf("port mapping %d to %d: ports are 1 to 65535: %w", p.HostPort, p.ContainerPort, errdefs.ErrInvalidArgument)
		}
		protocol := strings.ToLower(p.Protocol)
		switch protocol {
		case "tcp", "udp", "sctp":
		case "":
			protocol = "tcp"
		default:
			return nil, fmt.Errorf("port mapping %d to %d: protocol %.20q must be tcp, udp or sctp: %w", p.HostPort, p.ContainerPort, p.Protocol, errdefs.ErrInvalidArgument)
		}
		if p.HostIP != "" {
			if ip, err := netip.ParseAddr(p.HostIP); err != nil || ip.Zone() != "" {
				return nil, fmt.Errorf("port mapping %d to %d: host IP %.80q is no IP address: %w", p.HostPort, p.ContainerPort, p.HostIP, errdefs.ErrInvalidArgument)
			}
		}
		ports = append(ports, cniPort{HostPort: p.HostPort, ContainerPort: p.ContainerPort, Protocol: protocol, HostIP: p.HostIP})
	}
	return ports, nil
}

const (
	ingressAnnotation = "kubernetes.io/ingress-bandwidth"
	egressAnnotation  = "kubernetes.io/egress-bandwidth"
	// The bounds that Kubernetes has documented for these annotations, in bits per second.
	bandwidthMin = 1e3
	bandwidthMax = 1e15
	// bandwidthBurst leaves bursts unbounded: the highest value that tc takes, in bits.
	bandwidthBurst = math.MaxInt32
)

func podBandwidth(annotations map[string]string) (cniBandwidth, error) {
	var b cniBandwidth
	for _, d := range []struct {
		annotation  string
		rate, burst *uint64
	}{{ingressAnnotation, &b.IngressRate, &b.IngressBurst}, {egressAnnotation, &b.EgressRate, &b.EgressBurst}} {
		text, ok := annotations[d.annotation]
		if !ok {
			continue
		}
		rate, err := parseQuantity(text)
		if err != nil || rate < bandwidthMin || rate > bandwidthMax {
			return cniBandwidth{}, fmt.Errorf("annotation %s=%.40q must be bits per second from 1k to 1P, as 10M: %w", d.annotation, text, errdefs.ErrInvalidArgument)
		}
		*d.rate, *d.burst = uint64(rate), bandwidthBurst
	}
	return b, nil
}

var (
	quantities = regexp.MustCompile(`^\+?([0-9]{1,18}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][+-]?[0-9]{1,2})?$`)
	suffixes   = map[string]float64{
		"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
		"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "Pi": 1 << 50, "Ei": 1 << 60,
	}
)

// parseQuantity reads Kubernetes' notation of quantities ("1.5G", "10Mi", "2e6"), which is all that is needed of it here.
func parseQuantity(text string) (float64, error) {
	m := quantities.FindStringSubmatch(text)
	if m == nil {
		return 0, fmt.Errorf("quantity %.40q is malformed: %w", text, errdefs.ErrInvalidArgument)
	}
	factor, ok := suffixes[m[2]]
	if !ok {
		return strconv.ParseFloat(m[1]+m[2], 64)
	}
	n, err := strconv.ParseFloat(m[1], 64)
	return n * factor, err
}
