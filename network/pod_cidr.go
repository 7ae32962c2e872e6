package network

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/containerd/errdefs"
)

// SetPodCIDR takes the node's pod CIDR, or one of each family separated by a comma (CRI NetworkConfig.pod_cidr). It is
// checked and noted; the network's own configuration decides on addresses. An empty one changes nothing.
func (m *Manager) SetPodCIDR(cidr string) error {
	if cidr == "" {
		return nil
	}
	var list []netip.Prefix
	for _, text := range strings.Split(cidr, ",") {
		p, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil || p != p.Masked() {
			return fmt.Errorf("pod CIDR %.80q is no network address with a prefix length, as 10.1.0.0/24: %w", text, errdefs.ErrInvalidArgument)
		}
		list = append(list, p)
	}
	if len(list) > 2 || len(list) == 2 && list[0].Addr().Is4() == list[1].Addr().Is4() {
		return fmt.Errorf("pod CIDR %.160q must be one, or one of each IP family: %w", cidr, errdefs.ErrInvalidArgument)
	}
	m.o.Log.WithField("cidr", cidr).Info("pod CIDR of the node")
	return nil
}
