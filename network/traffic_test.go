package network

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
)

const deviceTitles = "Inter-|   Receive                                                |  Transmit\n" +
	" face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n"

func TestTrafficIsReadFromTheKernelsTable(t *testing.T) {
	for name, tc := range map[string]struct {
		text string
		want []string
	}{
		"nothing":       {"", nil},
		"titles only":   {deviceTitles, nil},
		"loopback":      {deviceTitles + "    lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n", nil},
		"the pod's own": {deviceTitles + "  eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n", []string{"eth0 1 2 3 4 9 10 11 12"}},
		"the first that CNI made comes first": {
			deviceTitles + "tunl0: 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n eth0:18446744073709551615 2 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n",
			[]string{"eth0 18446744073709551615 2 0 0 0 0 0 0", "tunl0 0 0 0 0 0 0 0 0"},
		},
		"a line cut off":         {deviceTitles + "  eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15", nil},
		"a name that no message": {deviceTitles + "\xff\xfe: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n", nil},
		"no table":               {"what\nis\nthis: a b\n", nil},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, i := range parseTraffic([]byte(tc.text)) {
				got = append(got, fmt.Sprint(i.Name, " ", i.Rx.Bytes, i.Rx.Packets, i.Rx.Errors, i.Rx.Dropped, i.Tx.Bytes, i.Tx.Packets, i.Tx.Errors, i.Tx.Dropped))
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestTrafficOfAPodWithManyInterfacesIsBounded(t *testing.T) {
	var b strings.Builder
	b.WriteString(deviceTitles)
	for n := range 1000 {
		fmt.Fprintf(&b, "d%d: 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n", n)
	}
	b.WriteString("eth0: 7 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n")
	got := parseTraffic([]byte(b.String()))
	if len(got) != interfacesMax || got[0].Name != "eth0" || got[0].Rx.Bytes != 7 {
		t.Errorf("%d interfaces, the first is %+v", len(got), got[0])
	}
}

func TestInterfacesAreThoseOfThePod(t *testing.T) {
	n := newNode(t)
	pod := testPod("pod1")
	ns := n.pin(t, pod)
	inside(t, ns, func() error {
		for _, name := range []string{"other", "eth0", "bad\xff"} {
			if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "p-" + name[:3]}); err != nil {
				return err
			}
		}
		return nil
	})
	got, err := n.Interfaces(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, i := range got {
		names = append(names, i.Name)
	}
	if len(names) != 5 || names[0] != "eth0" || !slices.Contains(names, "other") {
		t.Errorf("the interfaces are %q", names)
	}
}

func TestInterfacesOfAPodWithoutNamespace(t *testing.T) {
	n := newNode(t)
	if got, err := n.Interfaces(t.Context(), Pod{ID: "host", HostNetwork: true}); err != nil || got != nil {
		t.Errorf("on the host network: %v, %v", got, err)
	}
	if _, err := n.Interfaces(t.Context(), testPod("absent")); !errdefs.IsNotFound(err) {
		t.Errorf("never pinned: %v", err)
	}
	if _, err := n.Interfaces(t.Context(), testPod("../escape")); !errdefs.IsInvalidArgument(err) {
		t.Errorf("bad ID: %v", err)
	}
	// What a reboot leaves of a pin is a plain file.
	mustMkdir(t, n.o.nsDir()+"/stale")
	mustWrite(t, n.o.nsDir()+"/stale/net", "", 0o400)
	defer func() {
		if err := n.Unpin(t.Context(), "stale"); err != nil {
			t.Error(err)
		}
	}()
	if _, err := n.Interfaces(t.Context(), testPod("stale")); !errdefs.IsNotFound(err) {
		t.Errorf("a plain file: %v", err)
	}
}
