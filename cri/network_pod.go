package cri

import (
	"github.com/cri-pouch/cri-pouch/cri/model"
	"github.com/cri-pouch/cri-pouch/network"
)

// networkPod says to package network what the sandbox asks of it.
func networkPod(rec model.Sandbox) network.Pod {
	c := rec.Config
	pod := network.Pod{
		ID: rec.ID, Namespace: c.Namespace, Name: c.Name, UID: c.UID, Hostname: c.Hostname,
		HostNetwork: c.Namespaces.Network == model.ModeNode,
		HostIPC:     c.Namespaces.IPC == model.ModeNode,
		Sysctls:     c.Sysctls, Annotations: c.Annotations, Labels: c.Labels,
	}
	if c.DNS != nil {
		pod.DNS = &network.DNS{Servers: c.DNS.Servers, Searches: c.DNS.Searches, Options: c.DNS.Options}
	}
	for _, p := range c.PortMappings {
		pod.PortMappings = append(pod.PortMappings, network.PortMapping(p))
	}
	if u := c.Namespaces.User; u != nil {
		for _, m := range u.UIDs {
			pod.UIDs = append(pod.UIDs, network.IDMapping(m))
		}
		for _, m := range u.GIDs {
			pod.GIDs = append(pod.GIDs, network.IDMapping(m))
		}
	}
	return pod
}
