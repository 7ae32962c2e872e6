package cri

import (
	"maps"
	"math"
	"net/netip"
	"slices"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/cri/model"
)

// sandboxConfig converts and checks what RunPodSandbox asked for. Every error is InvalidArgument or NotImplemented and
// names the field. config.windows has no meaning on Linux and is ignored.
func sandboxConfig(c *runtime.PodSandboxConfig, handler string) (model.SandboxConfig, error) {
	var out model.SandboxConfig
	if c == nil {
		return out, invalid("config", "is missing")
	}
	md := c.GetMetadata()
	if md == nil {
		return out, invalid("config.metadata", "is missing")
	}
	for field, v := range map[string]string{
		"config.metadata.name": md.GetName(), "config.metadata.uid": md.GetUid(), "config.metadata.namespace": md.GetNamespace(),
	} {
		if err := checkName(field, v); err != nil {
			return out, err
		}
	}
	out = model.SandboxConfig{
		Name: md.GetName(), UID: md.GetUid(), Namespace: md.GetNamespace(), Attempt: md.GetAttempt(),
		Hostname: c.GetHostname(), Labels: maps.Clone(c.GetLabels()), Annotations: maps.Clone(c.GetAnnotations()),
		RuntimeHandler: handler,
	}
	if err := checkHostname("config.hostname", out.Hostname); err != nil {
		return out, err
	}
	if err := checkLabels("config.labels", out.Labels, maxLabelValue); err != nil {
		return out, err
	}
	if err := checkLabels("config.annotations", out.Annotations, maxLabels); err != nil {
		return out, err
	}
	if err := checkText("runtime_handler", handler, maxName); err != nil {
		return out, err
	}
	var err error
	if c.GetLogDirectory() != "" {
		if out.LogDirectory, err = hostPath("config.log_directory", c.GetLogDirectory()); err != nil {
			return out, err
		}
	}
	if out.DNS, err = dns("config.dns_config", c.GetDnsConfig()); err != nil {
		return out, err
	}
	if out.PortMappings, err = portMappings("config.port_mappings", c.GetPortMappings()); err != nil {
		return out, err
	}
	return out, sandboxLinux("config.linux", c.GetLinux(), &out)
}

// sandboxLinux converts LinuxPodSandboxConfig; nil is all defaults.
func sandboxLinux(field string, l *runtime.LinuxPodSandboxConfig, out *model.SandboxConfig) error {
	if err := checkCgroupParent(field+".cgroup_parent", l.GetCgroupParent()); err != nil {
		return err
	}
	out.CgroupParent, out.Sysctls = l.GetCgroupParent(), maps.Clone(l.GetSysctls())
	out.Overhead, out.Resources = resources(l.GetOverhead()), resources(l.GetResources())
	for name, r := range map[string]*model.Resources{".overhead": out.Overhead, ".resources": out.Resources} {
		if err := checkResources(field+name, r); err != nil {
			return err
		}
	}
	if err := sandboxSecurity(field+".security_context", l.GetSecurityContext(), out); err != nil {
		return err
	}
	return checkSysctls(field+".sysctls", out.Sysctls, out.Namespaces)
}

// sandboxSecurity converts LinuxSandboxSecurityContext. Its supplemental_groups_policy is checked and dropped: a sandbox has
// no process whose groups an image could extend.
func sandboxSecurity(field string, s *runtime.LinuxSandboxSecurityContext, out *model.SandboxConfig) error {
	var err error
	if out.Namespaces, err = namespaces(field+".namespace_options", s.GetNamespaceOptions(), false); err != nil {
		return err
	}
	if out.SELinux, err = seLinux(field+".selinux_options", s.GetSelinuxOptions()); err != nil {
		return err
	}
	if out.RunAsUser, err = numericID(field+".run_as_user", s.GetRunAsUser()); err != nil {
		return err
	}
	if out.RunAsGroup, err = numericID(field+".run_as_group", s.GetRunAsGroup()); err != nil {
		return err
	}
	if out.RunAsGroup != nil && out.RunAsUser == nil {
		return invalid(field+".run_as_group", "is given without run_as_user")
	}
	if out.SupplementalGroups, err = groups(field+".supplemental_groups", s.GetSupplementalGroups()); err != nil {
		return err
	}
	if _, err = strictGroups(field+".supplemental_groups_policy", s.GetSupplementalGroupsPolicy()); err != nil {
		return err
	}
	out.Privileged, out.ReadonlyRootfs = s.GetPrivileged(), s.GetReadonlyRootfs()
	//lint:ignore SA1019 clients of older CRI versions still send it
	if out.Seccomp, err = profile(field+".seccomp", s.GetSeccomp(), s.GetSeccompProfilePath(), true); err != nil {
		return err
	}
	out.AppArmor, err = profile(field+".apparmor", s.GetApparmor(), "", false)
	return err
}

// dns converts DNSConfig; nil stays nil: the pod then gets the node's resolv.conf.
func dns(field string, d *runtime.DNSConfig) (*model.DNS, error) {
	if d == nil {
		return nil, nil
	}
	for name, list := range map[string][]string{
		".servers": d.GetServers(), ".searches": d.GetSearches(), ".options": d.GetOptions(),
	} {
		if err := checkCount(field+name, len(list)); err != nil {
			return nil, err
		}
		for _, v := range list {
			if v == "" {
				return nil, invalid(field+name, "has an empty entry")
			}
			// A newline would write further lines into resolv.conf.
			if err := checkText(field+name, v, maxLabelValue); err != nil {
				return nil, err
			}
		}
	}
	for _, v := range d.GetServers() {
		if _, err := netip.ParseAddr(v); err != nil {
			return nil, invalid(field+".servers", "%q is not an IP address", v)
		}
	}
	return &model.DNS{
		Servers: slices.Clone(d.GetServers()), Searches: slices.Clone(d.GetSearches()), Options: slices.Clone(d.GetOptions()),
	}, nil
}

// portMappings converts the mappings that take a port of the node. One with host_port 0 takes none, by CRI's definition,
// and is left out.
func portMappings(field string, in []*runtime.PortMapping) ([]model.PortMapping, error) {
	if err := checkCount(field, len(in)); err != nil {
		return nil, err
	}
	var out []model.PortMapping
	for _, p := range in {
		m := model.PortMapping{ContainerPort: p.GetContainerPort(), HostPort: p.GetHostPort(), HostIP: p.GetHostIp()}
		switch p.GetProtocol() {
		case runtime.Protocol_TCP:
			m.Protocol = "tcp"
		case runtime.Protocol_UDP:
			m.Protocol = "udp"
		case runtime.Protocol_SCTP:
			m.Protocol = "sctp"
		default:
			return nil, invalid(field, "unknown protocol %d", p.GetProtocol())
		}
		if m.HostPort < 0 || m.HostPort > math.MaxUint16 {
			return nil, invalid(field, "host port %d is not between 0 and 65535", m.HostPort)
		}
		if m.ContainerPort < 0 || m.ContainerPort > math.MaxUint16 || m.ContainerPort == 0 && m.HostPort != 0 {
			return nil, invalid(field, "container port %d of host port %d is not between 1 and 65535", m.ContainerPort, m.HostPort)
		}
		if m.HostIP != "" {
			if _, err := netip.ParseAddr(m.HostIP); err != nil {
				return nil, invalid(field, "host IP %q is not an IP address", m.HostIP)
			}
		}
		if m.HostPort != 0 {
			out = append(out, m)
		}
	}
	return out, nil
}
