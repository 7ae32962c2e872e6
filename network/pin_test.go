package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/mountpoint"
)

var userIDs = []IDMapping{{ContainerID: 0, HostID: 300000, Length: 65536}}

func TestPinMakesTheNamespacesThatThePodAsksFor(t *testing.T) {
	for _, tc := range []struct {
		name             string
		pod              Pod
		net, ipc, uts, u bool
	}{
		{name: "all of its own", pod: Pod{}, net: true, ipc: true, uts: true},
		{name: "host network", pod: Pod{HostNetwork: true}, ipc: true},
		{name: "host IPC", pod: Pod{HostIPC: true}, net: true, uts: true},
		{name: "all of the host", pod: Pod{HostNetwork: true, HostIPC: true}},
		{name: "user namespace", pod: Pod{UIDs: userIDs, GIDs: userIDs}, net: true, ipc: true, uts: true, u: true},
		{name: "user namespace on the host network", pod: Pod{UIDs: userIDs, GIDs: userIDs, HostNetwork: true}, ipc: true, u: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := newNode(t)
			tc.pod.ID = "pod1"
			ns := n.pin(t, tc.pod)
			for what, c := range map[string]struct {
				path string
				want bool
			}{"net": {ns.Net, tc.net}, "ipc": {ns.IPC, tc.ipc}, "uts": {ns.UTS, tc.uts}, "user": {ns.User, tc.u}} {
				if (c.path != "") != c.want {
					t.Errorf("%s namespace: path %q, own namespace wanted: %v", what, c.path, c.want)
					continue
				}
				if c.want && (!isNamespace(c.path) || inodeOf(t, c.path) == inodeOf(t, "/proc/self/ns/"+what)) {
					t.Errorf("%s is not a namespace of the pod's own", c.path)
				}
			}
			again, err := n.Pin(t.Context(), tc.pod)
			if err != nil || again != ns {
				t.Errorf("a second Pin gave %v, %v, want %v", again, err, ns)
			}
		})
	}
}

func TestPinnedNamespacesAreSetUp(t *testing.T) {
	for name, ids := range map[string][]IDMapping{"plain": nil, "user namespace": userIDs} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			pod := testPod("pod1")
			pod.UIDs, pod.GIDs = ids, ids
			pod.Sysctls = map[string]string{
				"net.ipv4.ip_unprivileged_port_start": "80", "net/ipv4/conf/lo/rp_filter": "2", "net.ipv4.ping_group_range": "0 1000",
				"kernel.shmmni": "1234", "kernel.msgmax": "9000", "kernel.sem": "250 32000 100 200", "fs.mqueue.msg_max": "11",
			}
			ns := n.pin(t, pod)
			inside(t, ns, func() error {
				lo, err := netlink.LinkByName("lo")
				if err != nil {
					return err
				}
				if lo.Attrs().RawFlags&unix.IFF_UP == 0 {
					t.Error("loopback is down")
				}
				var uts unix.Utsname
				if err := unix.Uname(&uts); err != nil {
					return err
				}
				if got := unix.ByteSliceToString(uts.Nodename[:]); got != pod.Hostname {
					t.Errorf("hostname is %q, want %q", got, pod.Hostname)
				}
				for file, want := range map[string]string{
					"net/ipv4/ip_unprivileged_port_start": "80", "net/ipv4/conf/lo/rp_filter": "2", "net/ipv4/ping_group_range": "0 1000",
					"kernel/shmmni": "1234", "kernel/msgmax": "9000", "kernel/sem": "250 32000 100 200", "fs/mqueue/msg_max": "11",
				} {
					b, err := os.ReadFile("/proc/sys/" + file)
					if got := strings.Join(strings.Fields(string(b)), " "); got != want {
						t.Errorf("%s is %q, %v, want %q", file, got, err, want)
					}
				}
				return nil
			})
			if b, _ := os.ReadFile("/proc/sys/kernel/shmmni"); strings.TrimSpace(string(b)) == "1234" {
				t.Error("the node's own sysctl was changed")
			}
		})
	}
}

func TestPodsMayUseLowPortsAndPingUnlessTheySayOtherwise(t *testing.T) {
	const ports, ping = "net/ipv4/ip_unprivileged_port_start", "net/ipv4/ping_group_range"
	for name, c := range map[string]struct {
		pod         Pod
		ports, ping string
	}{
		"plain":          {Pod{}, "0", "0 2147483647"},
		"user namespace": {Pod{UIDs: userIDs, GIDs: userIDs}, "0", "1 0"},
		"own ports":      {Pod{Sysctls: map[string]string{"net.ipv4.ip_unprivileged_port_start": "1024"}}, "1024", "0 2147483647"},
		"own groups":     {Pod{Sysctls: map[string]string{"net/ipv4/ping_group_range": "1 0"}}, "0", "1 0"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			c.pod.ID = "pod1"
			inside(t, n.pin(t, c.pod), func() error {
				for file, want := range map[string]string{ports: c.ports, ping: c.ping} {
					b, err := os.ReadFile("/proc/sys/" + file)
					if got := strings.Join(strings.Fields(string(b)), " "); got != want || err != nil {
						t.Errorf("%s is %q, %v, want %q", file, got, err, want)
					}
				}
				return nil
			})
		})
	}
	if list, err := checkSysctls(Pod{ID: "pod1", HostNetwork: true}); len(list) != 0 || err != nil {
		t.Errorf("on the host network %v, %v would be set", list, err)
	}
}

func TestOtherNamespacesBelongToTheUserNamespace(t *testing.T) {
	n := newNode(t)
	pod := testPod("pod1")
	pod.UIDs, pod.GIDs = userIDs, []IDMapping{{0, 400000, 1000}, {1000, 500000, 5}}
	ns := n.pin(t, pod)
	for _, path := range []string{ns.Net, ns.IPC, ns.UTS} {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		owner, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_USERNS)
		if err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(owner, &st); err != nil {
			t.Fatal(err)
		}
		unix.Close(owner)
		if st.Ino != inodeOf(t, ns.User) {
			t.Errorf("%s belongs to user namespace %d, want %d", path, st.Ino, inodeOf(t, ns.User))
		}
	}
	// Who enters the namespace sees the maps; nsenter is one thread and can.
	out, err := exec.Command("nsenter", "--user="+ns.User, "--net="+ns.Net, "cat", "/proc/self/uid_map", "/proc/self/gid_map", "/proc/self/setgroups").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want := "0 300000 65536 0 400000 1000 1000 500000 5 allow"
	if got := strings.Join(strings.Fields(string(out)), " "); got != want {
		t.Errorf("maps are %q, want %q", got, want)
	}
}

func TestShmIsATmpfsOfThePod(t *testing.T) {
	for name, tc := range map[string]struct {
		ids []IDMapping
		uid uint32
	}{"plain": {nil, 0}, "user namespace": {userIDs, 300000}} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			pod := testPod("pod1")
			pod.UIDs, pod.GIDs = tc.ids, tc.ids
			n.pin(t, pod)
			var fs unix.Statfs_t
			if err := unix.Statfs(n.Shm(pod), &fs); err != nil {
				t.Fatal(err)
			}
			if size := fs.Blocks * uint64(fs.Bsize); fs.Type != unix.TMPFS_MAGIC || size != 64<<20 {
				t.Errorf("type %#x, size %d, want a tmpfs of 64 MiB", fs.Type, size)
			}
			for _, flag := range []int64{unix.ST_NOSUID, unix.ST_NODEV, unix.ST_NOEXEC} {
				if fs.Flags&flag == 0 {
					t.Errorf("flag %#x is missing in %#x", flag, fs.Flags)
				}
			}
			var st unix.Stat_t
			if err := unix.Stat(n.Shm(pod), &st); err != nil {
				t.Fatal(err)
			}
			if st.Uid != tc.uid || st.Gid != tc.uid || st.Mode&0o7777 != 0o1777 {
				t.Errorf("owner %d:%d, mode %o, want %d:%[4]d, 1777", st.Uid, st.Gid, st.Mode&0o7777, tc.uid)
			}
		})
	}
	n := newNode(t)
	pod := Pod{ID: "pod2", HostIPC: true}
	n.pin(t, pod)
	if got := n.Shm(pod); got != "/dev/shm" {
		t.Errorf("with the host's IPC, shm is %q", got)
	}
}

func TestUnpinEndsTheNamespaces(t *testing.T) {
	n := newNode(t)
	pod := testPod("pod1")
	ns := n.pin(t, pod)
	// One end of a veth pair is in the pod; the other vanishes with the namespace.
	name := fmt.Sprintf("pv%d", os.Getpid()%100000)
	f, err := os.Open(ns.Net)
	if err != nil {
		t.Fatal(err)
	}
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(f.Fd()))}
	updates, done := make(chan netlink.LinkUpdate, 64), make(chan struct{})
	defer close(done)
	if err := netlink.LinkSubscribe(updates, done); err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	f.Close()
	// A mount namespace that was made in the meantime has a copy of the pin.
	other := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", "echo; exec cat")
	in, _ := other.StdinPipe()
	out, _ := other.StdoutPipe()
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { in.Close(); _ = other.Wait() }()
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := n.Unpin(t.Context(), pod.ID); err != nil {
			t.Fatal(err)
		}
	}
	for u := range updates {
		if u.Header.Type == unix.RTM_DELLINK && u.Attrs().Name == name {
			break // or the test's deadline passes
		}
	}
	if _, err := os.Stat(ns.Net); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s: %v, want it gone", ns.Net, err)
	}
}

func TestPinStartsAnewFromWhatAKilledDaemonLeft(t *testing.T) {
	n := newNode(t)
	pod := testPod("pod1")
	ns := n.pin(t, pod)
	before := inodeOf(t, ns.Net)

	m := open(t, n.o)
	if again, err := m.Pin(t.Context(), pod); err != nil || again != ns || inodeOf(t, ns.Net) != before {
		t.Errorf("Pin of a new daemon gave %v, %v; the namespaces must be the same", again, err)
	}
	for what, cut := range map[string]func(){
		"a pin is missing":      func() { must(t, unpinFile(ns.UTS)) },
		"a pin is a plain file": func() { must(t, mountpoint.Clear(ns.Net)) },
		"the tmpfs is missing":  func() { must(t, mountpoint.Clear(n.Shm(pod))) },
		"a pin is there twice":  func() { must(t, unix.Mount(ns.IPC, ns.IPC, "", unix.MS_BIND, "")); must(t, unpinFile(ns.UTS)) },
	} {
		cut()
		if again, err := m.Pin(t.Context(), pod); err != nil || again != ns {
			t.Errorf("%s: Pin gave %v, %v", what, again, err)
		}
		if !m.complete(pod) {
			t.Errorf("%s: the pins are not complete again", what)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestPinRefusesWhatItCannotDoAndLeavesNothing(t *testing.T) {
	long := strings.Repeat("a", 65)
	for name, tc := range map[string]struct {
		pod  Pod
		says string
	}{
		"id with a slash":          {Pod{ID: "../x"}, "../x"},
		"no id":                    {Pod{}, "ID"},
		"hostname too long":        {Pod{ID: "p", Hostname: long}, "64"},
		"hostname with a line":     {Pod{ID: "p", Hostname: "a\nb"}, "hostname"},
		"only UIDs":                {Pod{ID: "p", UIDs: userIDs}, "GID"},
		"root not mapped":          {Pod{ID: "p", UIDs: []IDMapping{{1, 1000, 1}}, GIDs: userIDs}, "ID 0"},
		"overlapping mappings":     {Pod{ID: "p", UIDs: []IDMapping{{0, 1000, 10}, {5, 2000, 10}}, GIDs: userIDs}, "user namespace"},
		"mapping out of range":     {Pod{ID: "p", UIDs: []IDMapping{{0, 4294967290, 10}}, GIDs: userIDs}, "range"},
		"sysctl not namespaced":    {Pod{ID: "p", Sysctls: map[string]string{"kernel.core_pattern": "x"}}, "kernel.core_pattern"},
		"sysctl of host network":   {Pod{ID: "p", HostNetwork: true, Sysctls: map[string]string{"net.core.somaxconn": "1"}}, "net.core.somaxconn"},
		"sysctl of host IPC":       {Pod{ID: "p", HostIPC: true, Sysctls: map[string]string{"kernel.sem": "1"}}, "kernel.sem"},
		"sysctl with dots":         {Pod{ID: "p", Sysctls: map[string]string{"net/../kernel/core_pattern": "x"}}, "malformed"},
		"sysctl with hidden dots":  {Pod{ID: "p", Sysctls: map[string]string{"net.//.kernel.core_pattern": "x"}}, "malformed"},
		"sysctl with empty part":   {Pod{ID: "p", Sysctls: map[string]string{"net..core": "x"}}, "malformed"},
		"sysctl value with a line": {Pod{ID: "p", Sysctls: map[string]string{"net.core.somaxconn": "1\n2"}}, "net.core.somaxconn"},
		"sysctl value with plus":   {Pod{ID: "p", Sysctls: map[string]string{"kernel.shm_rmid_forced": "1+kernel.core_pattern=|/bin/x"}}, "kernel.shm_rmid_forced"},
		"sysctl value too long":    {Pod{ID: "p", Sysctls: map[string]string{"net.core.somaxconn": strings.Repeat("1", 300)}}, "256"},
		"sysctl unknown":           {Pod{ID: "p", Sysctls: map[string]string{"net.ipv4.no_such_thing": "1"}}, "net.ipv4.no_such_thing"},
		"sysctl that is a folder":  {Pod{ID: "p", Sysctls: map[string]string{"net.ipv4": "1"}}, "net.ipv4"},
		"sysctl value refused":     {Pod{ID: "p", Sysctls: map[string]string{"net.ipv4.ip_forward": "many"}}, "net.ipv4.ip_forward"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			_, err := n.Pin(t.Context(), tc.pod)
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %v, want an invalid argument that says %q", err, tc.says)
			}
		})
	}
}

func TestPinsAreMadeInParallelAndLeaveTheDaemonWhereItIs(t *testing.T) {
	n := newNode(t)
	before := inodeOf(t, "/proc/self/ns/net")
	errs := make(chan error)
	for i := range 16 {
		pod := testPod(fmt.Sprintf("pod%d", i))
		if i%4 == 3 {
			pod.UIDs, pod.GIDs = userIDs, userIDs
		}
		go func() {
			_, err := n.Pin(context.Background(), pod)
			errs <- errors.Join(err, n.Unpin(context.Background(), pod.ID))
		}()
	}
	for range 16 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	// A thread's end cannot be awaited; it comes right after that of its goroutine.
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		stray := strayThread(t, before)
		if stray == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s stayed in a pod's namespace", stray)
		}
	}
}

func strayThread(t *testing.T, home uint64) string {
	tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range append(tasks, "/proc/self/ns/net") {
		var st unix.Stat_t
		if unix.Stat(task, &st) == nil && st.Ino != home {
			return task
		}
	}
	return ""
}
