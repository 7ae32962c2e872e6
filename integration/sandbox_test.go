package integration

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

func TestSandboxLifecycle(t *testing.T) {
	n := harness.Start(t)
	p := n.RunPod(t)
	s := p.Status(t)
	if s.State != runtime.PodSandboxState_SANDBOX_READY {
		t.Errorf("state is %s", s.State)
	}
	ip, err := netip.ParseAddr(s.GetNetwork().GetIp())
	if err != nil || !n.Network.Subnet.Contains(ip) {
		t.Errorf("IP is %q, wanted one of %s", s.GetNetwork().GetIp(), n.Network.Subnet)
	}
	if s.CreatedAt <= 0 || s.Metadata.GetUid() != p.Config.Metadata.Uid {
		t.Errorf("status is %v", s)
	}
	if o := s.GetLinux().GetNamespaces().GetOptions(); o.GetNetwork() != runtime.NamespaceMode_POD || o.GetPid() != runtime.NamespaceMode_CONTAINER {
		t.Errorf("namespace options are %v", o)
	}

	c := p.Run(t, "app")
	ctx := harness.Context(t)
	for range 2 { // a stop can be repeated
		if _, err := n.Daemon.Runtime.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: p.ID}); err != nil {
			t.Fatal(err)
		}
	}
	if s := p.Status(t); s.State != runtime.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("after the stop the sandbox is %s", s.State)
	}
	if s := c.Status(t); s.State != runtime.ContainerState_CONTAINER_EXITED {
		t.Errorf("after the stop of the sandbox the container is %s", s.State)
	}
	if taken, err := n.Network.Reserved(); err != nil || len(taken) > 0 {
		t.Errorf("after the stop the address is still taken: %v %v", taken, err)
	}
	for range 2 { // so can a removal
		if _, err := n.Daemon.Runtime.RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: p.ID}); err != nil {
			t.Fatal(err)
		}
	}
	_, err = n.Daemon.Runtime.PodSandboxStatus(ctx, &runtime.PodSandboxStatusRequest{PodSandboxId: p.ID})
	wantCode(t, err, codes.NotFound, p.ID)
	_, err = n.Daemon.Runtime.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: c.ID})
	wantCode(t, err, codes.NotFound, c.ID)
}

func TestTwoContainersShareNetworkAndIPC(t *testing.T) {
	n := harness.Start(t)
	p := n.RunPod(t)
	a, b := p.Run(t, "a"), p.Run(t, "b")
	for _, ns := range []string{"net", "ipc", "uts"} {
		if x, y := a.Exec(t, "readlink", "/proc/self/ns/"+ns), b.Exec(t, "readlink", "/proc/self/ns/"+ns); x != y {
			t.Errorf("namespace %s differs: %s, %s", ns, x, y)
		}
	}
	for _, ns := range []string{"mnt", "pid"} {
		if x, y := a.Exec(t, "readlink", "/proc/self/ns/"+ns), b.Exec(t, "readlink", "/proc/self/ns/"+ns); x == y {
			t.Errorf("namespace %s is shared: %s", ns, x)
		}
	}
	if got := a.Exec(t, "ip", "-4", "addr", "show", "lo"); !strings.Contains(got, "127.0.0.1") {
		t.Errorf("loopback is not up: %s", got)
	}
	// A sandbox stays READY while its containers are dead.
	a.Stop(t, 0)
	b.Stop(t, 0)
	if s := p.Status(t); s.State != runtime.PodSandboxState_SANDBOX_READY || s.GetNetwork().GetIp() == "" {
		t.Errorf("with dead containers the sandbox is %s, IP %q", s.State, s.GetNetwork().GetIp())
	}
}

func TestPodsReachEachOther(t *testing.T) {
	n := harness.Start(t)
	server := n.RunPod(t)
	server.Run(t, "web", harness.Command("httpd", "-f", "-p", "8080", "-h", "/"))
	client := n.RunPod(t).Run(t, "client")
	ip := server.IP(t)
	var got string
	harness.Eventually(t, "the other pod answers", func() bool {
		r, err := n.Daemon.Runtime.ExecSync(harness.Context(t), &runtime.ExecSyncRequest{
			ContainerId: client.ID, Cmd: []string{"wget", "-q", "-O", "-", "http://" + ip + ":8080/version"}, Timeout: 20})
		got = string(r.GetStdout())
		return err == nil && r.ExitCode == 0
	})
	if got != "one\n" {
		t.Errorf("the other pod answered %q", got)
	}
}

func TestHostNetwork(t *testing.T) {
	n := harness.Start(t)
	p := n.RunPod(t, func(c *runtime.PodSandboxConfig) {
		c.Hostname = ""
		c.Linux.SecurityContext.NamespaceOptions.Network = runtime.NamespaceMode_NODE
	})
	if s := p.Status(t); s.GetNetwork().GetIp() != "" || s.GetLinux().GetNamespaces().GetOptions().GetNetwork() != runtime.NamespaceMode_NODE {
		t.Errorf("status is %v", s)
	}
	c := p.Run(t, "app")
	for _, ns := range []string{"net", "uts"} {
		own, err := os.Readlink("/proc/self/ns/" + ns)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimSpace(c.Exec(t, "readlink", "/proc/self/ns/"+ns)); got != own {
			t.Errorf("namespace %s is %s, the node's is %s", ns, got, own)
		}
	}
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(c.Exec(t, "hostname")); got != name {
		t.Errorf("hostname is %q, the node's is %q", got, name)
	}
}

func TestNamesInThePod(t *testing.T) {
	n := harness.Start(t)
	p := n.RunPod(t, func(c *runtime.PodSandboxConfig) {
		c.Hostname = "named"
		c.DnsConfig = &runtime.DNSConfig{Servers: []string{"192.0.2.53"}, Searches: []string{"lab.test", "example.test"}, Options: []string{"ndots:5"}}
	})
	c := p.Run(t, "app")
	if got := c.Exec(t, "cat", "/etc/resolv.conf"); got != "search lab.test example.test\nnameserver 192.0.2.53\noptions ndots:5\n" {
		t.Errorf("resolv.conf reads %q", got)
	}
	if got := c.Exec(t, "hostname"); got != "named\n" {
		t.Errorf("hostname is %q", got)
	}
	if got := c.Exec(t, "cat", "/etc/hostname"); got != "named\n" {
		t.Errorf("/etc/hostname reads %q", got)
	}
	hosts := c.Exec(t, "cat", "/etc/hosts")
	found := false
	for line := range strings.Lines(hosts) {
		f := strings.Fields(line)
		found = found || len(f) >= 2 && f[0] == p.IP(t) && f[1] == "named"
	}
	if !found || !strings.Contains(hosts, "localhost") {
		t.Errorf("/etc/hosts reads %q", hosts)
	}
}

func TestSysctls(t *testing.T) {
	n := harness.Start(t)
	p := n.RunPod(t, func(c *runtime.PodSandboxConfig) {
		c.Linux.Sysctls = map[string]string{"kernel.shm_rmid_forced": "1", "net.ipv4.ip_local_port_range": "2000 3000"}
	})
	c := p.Run(t, "app")
	if got := c.Exec(t, "cat", "/proc/sys/kernel/shm_rmid_forced"); got != "1\n" {
		t.Errorf("kernel.shm_rmid_forced is %q", got)
	}
	if got := strings.Fields(c.Exec(t, "cat", "/proc/sys/net/ipv4/ip_local_port_range")); strings.Join(got, " ") != "2000 3000" {
		t.Errorf("net.ipv4.ip_local_port_range is %q", got)
	}
	own, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil || strings.Join(strings.Fields(string(own)), " ") == "2000 3000" {
		t.Errorf("the node's own setting is %q (%v)", own, err)
	}

	bad := map[string]map[string]string{
		"not of a namespace":         {"kernel.panic": "1"},
		"of mounts":                  {"fs.file-max": "1000"},
		"a path":                     {"net/../../kernel/panic": "1"},
		"a value with a second line": {"net.ipv4.ip_local_port_range": "2000 3000\nkernel.panic=1"},
		"unknown":                    {"net.ipv4.no_such_setting": "1"},
	}
	for name, sysctls := range bad {
		t.Run(name, func(t *testing.T) {
			before := len(listPods(t, n))
			_, err := n.Daemon.Runtime.RunPodSandbox(harness.Context(t), &runtime.RunPodSandboxRequest{
				Config: n.PodConfig(t, func(c *runtime.PodSandboxConfig) { c.Linux.Sysctls = sysctls })})
			for key := range sysctls {
				wantCode(t, err, codes.InvalidArgument, key)
			}
			if after := len(listPods(t, n)); after != before {
				t.Errorf("%d sandboxes before, %d after", before, after)
			}
		})
	}
	t.Run("net sysctl on the host network", func(t *testing.T) {
		_, err := n.Daemon.Runtime.RunPodSandbox(harness.Context(t), &runtime.RunPodSandboxRequest{
			Config: n.PodConfig(t, func(c *runtime.PodSandboxConfig) {
				c.Hostname, c.Linux.Sysctls = "", map[string]string{"net.ipv4.ip_local_port_range": "2000 3000"}
				c.Linux.SecurityContext.NamespaceOptions.Network = runtime.NamespaceMode_NODE
			})})
		wantCode(t, err, codes.InvalidArgument, "net.ipv4.ip_local_port_range")
	})
}

func TestPortMapping(t *testing.T) {
	n := harness.Start(t)
	port := freePort(t)
	p := n.RunPod(t, func(c *runtime.PodSandboxConfig) {
		c.PortMappings = []*runtime.PortMapping{{Protocol: runtime.Protocol_TCP, ContainerPort: 8080, HostPort: port}}
	})
	p.Run(t, "web", harness.Command("httpd", "-f", "-p", "8080", "-h", "/"))
	address := netip.AddrPortFrom(n.Network.Gateway(), uint16(port)).String()
	var got string
	harness.Eventually(t, "the host port leads into the pod", func() bool {
		var err error
		got, err = httpGet("http://" + address + "/version")
		return err == nil
	})
	if got != "one\n" {
		t.Errorf("port %d of the host answered %q", port, got)
	}
	p.Remove(t)
	if got, err := httpGet("http://" + address + "/version"); err == nil {
		t.Errorf("after the removal port %d still answers %q", port, got)
	}
}

func TestPidNamespaces(t *testing.T) {
	n := harness.Start(t)
	pod := func(mode runtime.NamespaceMode) *harness.Pod {
		return n.RunPod(t, func(c *runtime.PodSandboxConfig) { c.Linux.SecurityContext.NamespaceOptions.Pid = mode })
	}
	pidNS := func(c *harness.Container) string {
		return strings.TrimSpace(c.Exec(t, "readlink", "/proc/self/ns/pid"))
	}
	node, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	t.Run("container", func(t *testing.T) {
		c := pod(runtime.NamespaceMode_CONTAINER).Run(t, "a")
		if got := c.Exec(t, "cat", "/proc/1/comm"); got != "sleep\n" {
			t.Errorf("pid 1 is %q", got)
		}
	})
	t.Run("pod", func(t *testing.T) {
		p := pod(runtime.NamespaceMode_POD)
		a, b := p.Run(t, "a"), p.Run(t, "b", harness.Command("sleep", "2000000"))
		if pidNS(a) != pidNS(b) || pidNS(a) == node {
			t.Errorf("namespaces are %s and %s, the node's %s", pidNS(a), pidNS(b), node)
		}
		if got := a.Exec(t, "ps", "-o", "args"); !strings.Contains(got, "sleep 2000000") || !strings.Contains(got, "sleep 1000000") {
			t.Errorf("the containers do not see each other: %s", got)
		}
		a.Stop(t, 0)
		if s := b.Status(t); s.State != runtime.ContainerState_CONTAINER_RUNNING {
			t.Errorf("the end of one container ended the other: %s", s.State)
		}
		a.Remove(t)
		c := p.Run(t, "a", func(c *runtime.ContainerConfig) { c.Metadata.Attempt = 1 })
		if pidNS(c) != pidNS(b) {
			t.Error("the replaced container is in another pid namespace")
		}
	})
	t.Run("node", func(t *testing.T) {
		if c := pod(runtime.NamespaceMode_NODE).Run(t, "a"); pidNS(c) != node {
			t.Errorf("namespace is %s, the node's %s", pidNS(c), node)
		}
	})
	t.Run("target", func(t *testing.T) {
		p := pod(runtime.NamespaceMode_CONTAINER)
		a := p.Run(t, "a")
		debug := p.Run(t, "debug", func(c *runtime.ContainerConfig) {
			c.Linux.SecurityContext.NamespaceOptions.Pid = runtime.NamespaceMode_TARGET
			c.Linux.SecurityContext.NamespaceOptions.TargetId = a.ID
		})
		if pidNS(debug) != pidNS(a) {
			t.Errorf("namespaces are %s and %s", pidNS(debug), pidNS(a))
		}
		_, err := p.TryCreate(harness.Context(t), p.ContainerConfig("lost", func(c *runtime.ContainerConfig) {
			c.Linux.SecurityContext.NamespaceOptions.Pid = runtime.NamespaceMode_TARGET
			c.Linux.SecurityContext.NamespaceOptions.TargetId = "no-such-container"
		}))
		wantError(t, err, "no-such-container")
	})
}

func TestUserNamespace(t *testing.T) {
	n := harness.Start(t)
	ids := []*runtime.IDMapping{{ContainerId: 0, HostId: 1 << 20, Length: 65536}}
	p := n.RunPod(t, func(c *runtime.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &runtime.UserNamespace{Mode: runtime.NamespaceMode_POD, Uids: ids, Gids: ids}
	})
	volume := filepath.Join(n.Dir, "volume")
	if err := os.Mkdir(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	c := p.Run(t, "app", func(c *runtime.ContainerConfig) {
		c.Mounts = []*runtime.Mount{{HostPath: volume, ContainerPath: "/data", UidMappings: ids, GidMappings: ids}}
	})
	if got := strings.Fields(c.Exec(t, "cat", "/proc/self/uid_map")); strings.Join(got, " ") != "0 1048576 65536" {
		t.Errorf("uid_map is %v", got)
	}
	if got := c.Exec(t, "stat", "-c", "%u:%g", "/bin/busybox", "/home/app", "/data"); got != "0:0\n1000:1000\n0:0\n" {
		t.Errorf("owners seen inside are %q", got)
	}
	c.Exec(t, "sh", "-c", "echo hello > /data/file && echo hello > /etc/own")
	if uid := ownerOf(t, filepath.Join(volume, "file")); uid != 0 {
		t.Errorf("a file written into the idmapped volume belongs to %d on the node", uid)
	}
	second := p.Run(t, "second")
	if x, y := c.Exec(t, "readlink", "/proc/self/ns/user"), second.Exec(t, "readlink", "/proc/self/ns/user"); x != y {
		t.Errorf("the pod's containers are in different user namespaces: %s %s", x, y)
	}
	if got := c.Exec(t, "readlink", "/proc/self/ns/net"); got != second.Exec(t, "readlink", "/proc/self/ns/net") {
		t.Error("the pod's containers are in different network namespaces")
	}
}
