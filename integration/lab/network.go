package lab

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
)

// Network is a bridge with a subnet of its own, made by the CNI plugin when the first pod comes.
type Network struct {
	Name   string
	Bridge string
	Subnet netip.Prefix
	IPAM   string // folder in which host-local notes the addresses that are taken
}

func newNetwork(name, dir string) (*Network, error) {
	subnet, err := freeSubnet()
	if err != nil {
		return nil, err
	}
	return &Network{Name: name, Bridge: name, Subnet: subnet, IPAM: filepath.Join(dir, "ipam")}, nil
}

// freeSubnet picks a /24 below 10.0.0.0/8 that no interface of the machine uses.
func freeSubnet() (netip.Prefix, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("list the machine's addresses: %w", err)
	}
pick:
	for range 100 {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(64 + rand.IntN(128)), byte(rand.IntN(256)), 0}), 24)
		for _, a := range addrs {
			if used, err := netip.ParsePrefix(a.String()); err == nil && used.Overlaps(p) {
				continue pick
			}
		}
		return p, nil
	}
	return netip.Prefix{}, fmt.Errorf("no free /24 found below 10.0.0.0/8")
}

// Gateway is the bridge's own address, where the machine is reached from the pods.
func (n *Network) Gateway() netip.Addr { return n.Subnet.Addr().Next() }

// WriteConf puts the network's CNI configuration into dir.
func (n *Network) WriteConf(dir string) error {
	conf := map[string]any{
		"cniVersion": "1.1.0",
		"name":       n.Name,
		"plugins": []map[string]any{
			{
				"type": "bridge", "bridge": n.Bridge, "isGateway": true, "ipMasq": false, "hairpinMode": true,
				"ipam": map[string]any{
					"type": "host-local", "dataDir": n.IPAM,
					"ranges": [][]map[string]string{{{"subnet": n.Subnet.String()}}},
					"routes": []map[string]string{{"dst": "0.0.0.0/0"}},
				},
			},
			{"type": "portmap", "capabilities": map[string]bool{"portMappings": true}, "snat": true},
		},
	}
	b, err := json.MarshalIndent(conf, "", "  ")
	if err != nil {
		return err
	}
	// Written aside and renamed: the daemon watches the folder.
	tmp := filepath.Join(dir, ".10-lab")
	if err := os.WriteFile(tmp, b, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(dir, "10-lab.conflist"))
}

// Reserved gives the addresses that host-local has handed out and not taken back.
func (n *Network) Reserved() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(n.IPAM, n.Name))
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var taken []string
	for _, e := range entries {
		if _, err := netip.ParseAddr(e.Name()); err == nil {
			taken = append(taken, e.Name())
		}
	}
	return taken, nil
}

func (n *Network) remove() error {
	link, err := netlink.LinkByName(n.Bridge)
	if err != nil {
		return nil // no pod ever came
	}
	return netlink.LinkDel(link)
}
