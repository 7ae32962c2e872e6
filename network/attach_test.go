package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
)

// attach pins and attaches the pod and takes it back at the end.
func (n *node) attach(t *testing.T, pod Pod) (Namespaces, Attachment) {
	t.Helper()
	ns := n.pin(t, pod)
	a, err := n.Attach(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Detach(context.Background(), pod); err != nil {
			t.Error(err)
		}
	})
	return ns, a
}

// answer listens in the pod and answers each connection with word, until the test ends.
func answer(t *testing.T, ns Namespaces, port int, word string) {
	t.Helper()
	inside(t, ns, func() error {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = io.WriteString(c, word)
				c.Close()
			}
		}()
		return nil
	})
}

func ask(address string) (string, error) {
	c, err := net.DialTimeout("tcp", address, time.Minute)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return "", err
	}
	b, err := io.ReadAll(c)
	return string(b), err
}

func TestAttachedPodIsReachedAtItsAddress(t *testing.T) {
	for name, ids := range map[string][]IDMapping{"plain": nil, "user namespace": userIDs} {
		t.Run(name, func(t *testing.T) {
			b := newBridgeNet(t)
			n := withBridge(t, b)
			pod := testPod("pod1")
			pod.UIDs, pod.GIDs = ids, ids
			ns, a := n.attach(t, pod)
			if len(a.IPs) != 1 || !netip.MustParsePrefix(b.subnets[0]).Contains(a.IPs[0]) {
				t.Fatalf("addresses are %v, want one of %s", a.IPs, b.subnets[0])
			}
			answer(t, ns, 80, "here")
			if got, err := ask(netip.AddrPortFrom(a.IPs[0], 80).String()); got != "here" {
				t.Errorf("the pod answered %q, %v", got, err)
			}
			var result types100.Result
			if err := json.Unmarshal(a.Result, &result); err != nil || len(result.Interfaces) == 0 {
				t.Errorf("the result is %s, %v", a.Result, err)
			}
			for range 2 {
				must(t, n.Detach(t.Context(), pod))
			}
			if left := b.reserved(t); len(left) > 0 {
				t.Errorf("addresses %v are still reserved", left)
			}
			inside(t, ns, func() error {
				if _, err := netlink.LinkByName(ifName); err == nil {
					t.Error("the pod still has its interface")
				}
				return nil
			})
		})
	}
}

func TestDualStackGivesThePrimaryAddressFirst(t *testing.T) {
	for _, subnets := range [][]string{{"10.214.1.0/24", "fd00:c41:1::/64"}, {"fd00:c41:2::/64", "10.214.2.0/24"}} {
		b := newBridgeNet(t)
		b.subnets = subnets
		n := withBridge(t, b)
		_, a := n.attach(t, testPod("pod1"))
		if len(a.IPs) != 2 || !netip.MustParsePrefix(subnets[0]).Contains(a.IPs[0]) || !netip.MustParsePrefix(subnets[1]).Contains(a.IPs[1]) {
			t.Errorf("addresses are %v, want one of each of %v in this order", a.IPs, subnets)
		}
	}
}

func TestHostPortLeadsToThePod(t *testing.T) {
	for _, backend := range []string{"iptables", "nftables"} {
		t.Run(backend, func(t *testing.T) {
			b := newBridgeNet(t)
			b.more = []map[string]any{{"type": "portmap", "capabilities": map[string]bool{"portMappings": true}, "snat": true, "backend": backend}}
			n := withBridge(t, b)
			pod := testPod("pod1")
			port := freePort(t)
			pod.PortMappings = []PortMapping{{Protocol: "TCP", ContainerPort: 80, HostPort: int32(port)}, {Protocol: "tcp", ContainerPort: 81}}
			ns, _ := n.attach(t, pod)
			answer(t, ns, 80, "mapped")
			gateway := netip.MustParsePrefix(b.subnets[0]).Addr().Next()
			if got, err := ask(fmt.Sprintf("%s:%d", gateway, port)); got != "mapped" {
				t.Errorf("the host port answered %q, %v", got, err)
			}
			must(t, n.Detach(t.Context(), pod))
			for _, list := range [][]string{{"nft", "list", "ruleset"}, {"iptables-save"}} {
				if out, _ := exec.Command(list[0], list[1:]...).CombinedOutput(); strings.Contains(string(out), fmt.Sprint(port)) {
					t.Errorf("%v still has rules of port %d:\n%s", list, port, out)
				}
			}
		})
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func TestBandwidthAnnotationsShapeTheInterface(t *testing.T) {
	b := newBridgeNet(t)
	b.more = []map[string]any{{"type": "bandwidth", "capabilities": map[string]bool{"bandwidth": true}}}
	n := withBridge(t, b)
	pod := testPod("pod1")
	pod.Annotations = map[string]string{ingressAnnotation: "80M", egressAnnotation: "40M"}
	_, a := n.attach(t, pod)
	var result types100.Result
	must(t, json.Unmarshal(a.Result, &result))
	rates := map[uint64]bool{}
	for _, i := range result.Interfaces {
		link, err := netlink.LinkByName(i.Name)
		if i.Sandbox != "" || err != nil {
			continue
		}
		qdiscs, err := netlink.QdiscList(link)
		must(t, err)
		for _, q := range qdiscs {
			if tbf, ok := q.(*netlink.Tbf); ok {
				rates[tbf.Rate*8] = true
			}
		}
	}
	if !rates[80e6] || !rates[40e6] {
		t.Errorf("shaped to %v bit/s, want 80M and 40M", rates)
	}
}

func TestHostNetworkNeedsNoCNI(t *testing.T) {
	n := newNode(t)
	pod := Pod{ID: "pod1", HostNetwork: true}
	n.pin(t, pod)
	if a, err := n.Attach(t.Context(), pod); err != nil || len(a.IPs) > 0 {
		t.Errorf("Attach gave %v, %v", a, err)
	}
	must(t, n.Detach(t.Context(), pod))
}

// fakePlugin puts a shell script in the node's first folder of plugins. It has the request on stdin and in CNI_*.
func (n *node) fakePlugin(t *testing.T, name, script string) {
	t.Helper()
	mustWrite(t, filepath.Join(n.o.CNIBinDirs[0], name), "#!/bin/sh\n"+script, 0o755)
}

// fakeResult is what a fake plugin prints for ADD.
const fakeResult = `{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"x"}],"ips":[{"address":"10.9.9.9/24","interface":0}]}`

func (n *node) configure(t *testing.T, text string) {
	t.Helper()
	next := n.conf.next()
	mustWrite(t, filepath.Join(n.o.CNIConfDir, "10-test.conflist"), text, 0o644)
	<-next
}

const fakeConf = `{"cniVersion":"1.0.0","name":"fake","plugins":[{"type":"fake","capabilities":{"portMappings":true,"bandwidth":true,"dns":true}}]}`

func TestPluginsAreToldOfThePod(t *testing.T) {
	n := newNode(t)
	dump := filepath.Join(t.TempDir(), "dump")
	n.fakePlugin(t, "fake", fmt.Sprintf("cat > %s.$CNI_COMMAND; env | grep ^CNI_ > %[1]s.env.$CNI_COMMAND; echo '%s'", dump, fakeResult))
	n.configure(t, fakeConf)
	pod := testPod("pod1")
	pod.PortMappings = []PortMapping{{Protocol: "udp", ContainerPort: 53, HostPort: 5353, HostIP: "127.0.0.1"}}
	pod.Annotations = map[string]string{ingressAnnotation: "1.5M"}
	pod.DNS = &DNS{Servers: []string{"10.0.0.10"}, Searches: []string{"a.b"}, Options: []string{"ndots:5"}}
	ns, a := n.attach(t, pod)
	if !slices.Equal(a.IPs, []netip.Addr{netip.MustParseAddr("10.9.9.9")}) {
		t.Errorf("addresses are %v", a.IPs)
	}
	b, err := os.ReadFile(dump + ".ADD")
	must(t, err)
	want := `"runtimeConfig":{"bandwidth":{"ingressRate":1500000,"ingressBurst":2147483647},"dns":{"servers":["10.0.0.10"],"searches":["a.b"],"options":["ndots:5"]},"portMappings":[{"hostPort":5353,"containerPort":53,"protocol":"udp","hostIP":"127.0.0.1"}]}`
	if !strings.Contains(string(b), want) {
		t.Errorf("the plugin was given %s, want %s in it", b, want)
	}
	must(t, n.Detach(t.Context(), pod))
	for _, verb := range []string{"ADD", "DEL"} {
		b, err := os.ReadFile(dump + ".env." + verb)
		must(t, err)
		for _, want := range []string{
			"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod-pod1;K8S_POD_INFRA_CONTAINER_ID=pod1;K8S_POD_UID=uid-pod1\n",
			"CNI_NETNS=" + ns.Net + "\n", "CNI_IFNAME=eth0\n", "CNI_CONTAINERID=pod1\n",
		} {
			if !strings.Contains(string(b), want) {
				t.Errorf("%s had the environment %s, want %s in it", verb, b, want)
			}
		}
	}
}

func TestFailedAttachReleasesWhatWasDone(t *testing.T) {
	b := newBridgeNet(t)
	b.more = []map[string]any{{"type": "fails"}}
	n := withBridge(t, b)
	pod := testPod("pod1")
	n.pin(t, pod)
	n.fakePlugin(t, "fails", `[ $CNI_COMMAND = DEL ] || { echo '{"cniVersion":"1.1.0","code":11,"msg":"out of luck"}'; exit 1; }`)
	_, err := n.Attach(t.Context(), pod)
	if err == nil || !strings.Contains(err.Error(), "out of luck") || !strings.Contains(err.Error(), b.name) {
		t.Errorf("got %v, want an error with the plugin's words and the network's name", err)
	}
	if left := b.reserved(t); len(left) > 0 {
		t.Errorf("addresses %v are still reserved", left)
	}
}

func TestDetachIsRepeatedUntilPluginsRelease(t *testing.T) {
	b := newBridgeNet(t)
	b.more = []map[string]any{{"type": "fails"}}
	n := withBridge(t, b)
	pod := testPod("pod1")
	n.pin(t, pod)
	n.fakePlugin(t, "fails", `echo broken >&2; exit 1`)
	if _, err := n.Attach(t.Context(), pod); err == nil || !strings.Contains(err.Error(), "broken") {
		t.Errorf("got %v, want what the plugin said", err)
	}
	if err := n.Detach(t.Context(), pod); err == nil || len(b.reserved(t)) != 1 {
		t.Errorf("Detach gave %v with %v reserved, want an error and the address still noted", err, b.reserved(t))
	}
	// The folder has another network by now, and the daemon is another one.
	other := newBridgeNet(t)
	mustWrite(t, filepath.Join(n.o.CNIConfDir, "10-test.conflist"), other.conf(t), 0o644)
	n.fakePlugin(t, "fails", `exit 0`)
	must(t, open(t, n.o).Detach(t.Context(), pod))
	if left := b.reserved(t); len(left) > 0 {
		t.Errorf("addresses %v are still reserved", left)
	}
}

func TestDetachNeedsNeitherNamespaceNorConfiguration(t *testing.T) {
	b := newBridgeNet(t)
	b.more = []map[string]any{{"type": "portmap", "capabilities": map[string]bool{"portMappings": true}}, {"type": "firewall"}, {"type": "tuning"}}
	n := withBridge(t, b)
	pod := testPod("pod1")
	n.pin(t, pod)
	if _, err := n.Attach(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	must(t, os.RemoveAll(n.o.CNIConfDir))
	must(t, n.Unpin(t.Context(), pod.ID))
	m := open(t, n.o)
	for range 2 {
		must(t, m.Detach(t.Context(), pod))
	}
	if left := b.reserved(t); len(left) > 0 {
		t.Errorf("addresses %v are still reserved", left)
	}
}

func TestHangingPluginIsKilledWithItsChildren(t *testing.T) {
	n := newNode(t, func(o *Options) { o.CNITimeout = 3 * time.Second })
	// The child holds the plugin's streams open; the FIFO tells when it is gone.
	fifo := filepath.Join(t.TempDir(), "fifo")
	must(t, exec.Command("mkfifo", fifo).Run())
	n.fakePlugin(t, "fake", fmt.Sprintf(`[ $CNI_COMMAND = DEL ] && exit 0; sleep 1000 9>%s & wait`, fifo))
	n.configure(t, fakeConf)
	pod := testPod("pod1")
	n.pin(t, pod)
	gone := make(chan error)
	go func() {
		f, err := os.Open(fifo)
		if err == nil {
			_, err = f.Read(make([]byte, 1))
			f.Close()
		}
		gone <- err
	}()
	_, err := n.Attach(t.Context(), pod)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "3s") {
		t.Errorf("got %v, want a deadline of 300ms", err)
	}
	if err := <-gone; err != io.EOF {
		t.Errorf("the plugin's child: %v, want its end", err)
	}
}

func TestManyPodsGetAddressesOfTheirOwn(t *testing.T) {
	b := newBridgeNet(t)
	n := withBridge(t, b)
	const count = 20
	type got struct {
		ips []netip.Addr
		err error
	}
	results := make(chan got)
	for i := range count {
		pod := testPod(fmt.Sprintf("pod%d", i))
		n.pin(t, pod)
		t.Cleanup(func() { must(t, n.Detach(context.Background(), pod)) })
		go func() {
			a, err := n.Attach(context.Background(), pod)
			results <- got{a.IPs, err}
		}()
	}
	seen := map[netip.Addr]bool{}
	for range count {
		r := <-results
		if r.err != nil {
			t.Error(r.err)
			continue
		}
		if seen[r.ips[0]] {
			t.Errorf("address %s was given twice", r.ips[0])
		}
		seen[r.ips[0]] = true
	}
}

func TestAttachesRunAtTheSameTimeWithinTheBound(t *testing.T) {
	n := newNode(t, func(o *Options) { o.Parallel = 3 })
	dir := t.TempDir()
	must(t, exec.Command("mkfifo", filepath.Join(dir, "go")).Run())
	// Each ADD says that it runs and waits for a word.
	n.fakePlugin(t, "fake", fmt.Sprintf(`if [ $CNI_COMMAND = ADD ]; then echo $CNI_CONTAINERID >> %[1]s/started; read word < %[1]s/go; echo '%s'; fi`, dir, fakeResult))
	n.configure(t, fakeConf)
	errs := make(chan error, 4)
	for i := range 4 {
		pod := testPod(fmt.Sprintf("pod%d", i))
		n.pin(t, pod)
		t.Cleanup(func() { must(t, n.Detach(context.Background(), pod)) })
		go func() { _, err := n.Attach(context.Background(), pod); errs <- err }()
	}
	started := func() int {
		b, _ := os.ReadFile(filepath.Join(dir, "started"))
		return strings.Count(string(b), "\n")
	}
	for deadline := time.Now().Add(time.Minute); started() < 3; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d ADDs run at the same time, want 3", started())
		}
	}
	if n.cni.parallel.add.TryAcquire(1) {
		t.Error("a fourth ADD could start")
	}
	f, err := os.OpenFile(filepath.Join(dir, "go"), os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	_, err = f.WriteString(strings.Repeat("go\n", 4))
	must(t, err)
	for range 4 {
		must(t, <-errs)
	}
}

// The parent-death signal of a plugin goes off when the thread that forked it ends, and threads end here all the time.
func TestPluginsOutliveTheThreadsOfPins(t *testing.T) {
	n := newNode(t)
	dir := t.TempDir()
	must(t, exec.Command("mkfifo", filepath.Join(dir, "go"), filepath.Join(dir, "started")).Run())
	n.fakePlugin(t, "fake", fmt.Sprintf(`if [ $CNI_COMMAND = ADD ]; then echo > %[1]s/started; read word < %[1]s/go; echo '%s'; fi`, dir, fakeResult))
	n.configure(t, fakeConf)
	const count = 4
	errs := make(chan error, count)
	for i := range count {
		pod := testPod(fmt.Sprintf("pod%d", i))
		n.pin(t, pod)
		t.Cleanup(func() { must(t, n.Detach(context.Background(), pod)) })
		go func() { _, err := n.Attach(context.Background(), pod); errs <- err }()
	}
	started, err := os.OpenFile(filepath.Join(dir, "started"), os.O_RDWR, 0)
	must(t, err)
	defer started.Close()
	_, err = io.ReadFull(started, make([]byte, count))
	must(t, err)
	for i := range 40 {
		pod := testPod(fmt.Sprintf("other%d", i))
		n.pin(t, pod)
		must(t, n.Unpin(t.Context(), pod.ID))
	}
	release, err := os.OpenFile(filepath.Join(dir, "go"), os.O_RDWR, 0)
	must(t, err)
	defer release.Close()
	for range count {
		_, err = release.WriteString("go\n")
		must(t, err)
		must(t, <-errs)
	}
}

func TestAttachThatIsGivenUpReleasesWhatWasDone(t *testing.T) {
	b := newBridgeNet(t)
	b.more = []map[string]any{{"type": "waits"}}
	n := withBridge(t, b)
	pod := testPod("pod1")
	n.pin(t, pod)
	fifo := filepath.Join(t.TempDir(), "started")
	must(t, exec.Command("mkfifo", fifo).Run())
	n.fakePlugin(t, "waits", fmt.Sprintf(`[ $CNI_COMMAND = ADD ] || exit 0; echo > %s; exec sleep 1000`, fifo))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	errs := make(chan error)
	go func() { _, err := n.Attach(ctx, pod); errs <- err }()
	f, err := os.Open(fifo)
	must(t, err)
	_, err = f.Read(make([]byte, 1))
	must(t, err)
	f.Close()
	if len(b.reserved(t)) != 1 {
		t.Errorf("reserved are %v, want the pod's address", b.reserved(t))
	}
	cancel()
	if err := <-errs; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want to be told that it was given up", err)
	}
	if left := b.reserved(t); len(left) > 0 {
		t.Errorf("addresses %v are still reserved", left)
	}
}

// Sysctls of an interface are set when CNI has made it, over what plugins set.
func TestSysctlsOfInterfaces(t *testing.T) {
	for name, ids := range map[string][]IDMapping{"plain": nil, "user namespace": userIDs} {
		t.Run(name, func(t *testing.T) {
			b := newBridgeNet(t)
			n := withBridge(t, b)
			pod := testPod("pod1")
			pod.UIDs, pod.GIDs = ids, ids
			pod.Sysctls = map[string]string{
				"net.ipv4.conf.eth0.rp_filter": "2", "net/ipv4/neigh/eth0/gc_stale_time": "77", "net.ipv4.conf.default.arp_announce": "1",
				"net.ipv6.conf.eth0.accept_ra": "0", "net.ipv6.neigh.eth0.gc_stale_time": "78",
			}
			if !exists("/proc/sys/net/ipv6") {
				maps.DeleteFunc(pod.Sysctls, func(name, _ string) bool { return strings.Contains(name, "ipv6") })
			}
			ns, _ := n.attach(t, pod)
			inside(t, ns, func() error {
				for name, want := range pod.Sysctls {
					got, err := os.ReadFile("/proc/sys/" + sysctlPath(name))
					if strings.TrimSpace(string(got)) != want {
						t.Errorf("%s is %q, %v, want %q", name, got, err, want)
					}
				}
				// What new interfaces begin with was set before there was one.
				got, err := os.ReadFile("/proc/sys/net/ipv4/conf/eth0/arp_announce")
				if strings.TrimSpace(string(got)) != "1" {
					t.Errorf("eth0 has begun with arp_announce %q, %v", got, err)
				}
				return nil
			})
		})
	}
}

func TestSysctlsOfInterfacesThatCannotBeSet(t *testing.T) {
	for name, c := range map[string]struct{ value, says string }{
		"net.ipv4.conf.eth7.rp_filter":    {"1", `no interface "eth7"`},
		"net.ipv4.conf.eth0.no_such_name": {"1", "this kernel does not have it"},
		"net.ipv4.conf.eth0.rp_filter":    {"many", "cannot be set"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBridgeNet(t)
			n := withBridge(t, b)
			pod := testPod("pod1")
			pod.Sysctls = map[string]string{name: c.value}
			n.pin(t, pod)
			_, err := n.Attach(t.Context(), pod)
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v", err)
			}
			if left := b.reserved(t); len(left) > 0 {
				t.Errorf("addresses %v are still reserved", left)
			}
		})
	}
}
