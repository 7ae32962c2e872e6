package network

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func TestFilesOfAPod(t *testing.T) {
	var uts unix.Utsname
	must(t, unix.Uname(&uts))
	nodeName := unix.ByteSliceToString(uts.Nodename[:])
	for name, tc := range map[string]struct {
		pod                     Pod
		ips                     []string
		hosts, resolv, hostname string
		uid                     uint32
	}{
		"own network": {
			Pod{Hostname: "web.example"}, []string{"10.0.0.5", "fd00::5"},
			"10.0.0.5\tweb.example web\nfd00::5\tweb.example web\n", "nameserver 192.0.2.1\n", "web.example\n", 0,
		},
		"DNS given": {
			Pod{Hostname: "web", DNS: &DNS{Servers: []string{"10.0.0.10", "fd00::a"}, Searches: []string{"a.svc", "b."}, Options: []string{"ndots:5"}}}, nil,
			"127.0.0.1\tlocalhost\n", "search a.svc b.\nnameserver 10.0.0.10\nnameserver fd00::a\noptions ndots:5\n", "web\n", 0,
		},
		"DNS given and empty": {Pod{Hostname: "web", DNS: &DNS{}}, nil, "::1\tlocalhost", "", "web\n", 0},
		"host network":        {Pod{HostNetwork: true, Hostname: "ignored"}, nil, "192.0.2.9\tnode\n", "nameserver 192.0.2.1\n", nodeName + "\n", 0},
		"user namespace":      {Pod{UIDs: userIDs, GIDs: userIDs}, []string{"10.0.0.5"}, "10.0.0.5\t" + nodeName, "nameserver 192.0.2.1\n", nodeName + "\n", 300000},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			mustWrite(t, filepath.Join(n.o.EtcDir, "hosts"), "192.0.2.9\tnode\n", 0o600)
			mustWrite(t, filepath.Join(n.o.EtcDir, "resolv.conf"), "nameserver 192.0.2.1\n", 0o600)
			tc.pod.ID = "pod1"
			var a Attachment
			for _, ip := range tc.ips {
				a.IPs = append(a.IPs, netip.MustParseAddr(ip))
			}
			files, err := n.WriteFiles(t.Context(), tc.pod, a)
			must(t, err)
			if files != n.Files("pod1") {
				t.Errorf("paths are %v, then %v", files, n.Files("pod1"))
			}
			checkFile(t, files.Hosts, tc.hosts, false, tc.uid)
			checkFile(t, files.ResolvConf, tc.resolv, true, tc.uid)
			checkFile(t, files.Hostname, tc.hostname, true, tc.uid)
			before := inodeOf(t, files.Hosts)
			if _, err := n.WriteFiles(t.Context(), tc.pod, a); err != nil || inodeOf(t, files.Hosts) != before {
				t.Errorf("written again: %v; containers have the first file mounted", err)
			}
			for range 2 {
				must(t, n.RemoveFiles(t.Context(), "pod1"))
			}
		})
	}
}

func checkFile(t *testing.T, path, want string, whole bool, uid uint32) {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	if got := string(b); got != want && (whole || !strings.Contains(got, want)) {
		t.Errorf("%s has %q, want %q", filepath.Base(path), got, want)
	}
	var st unix.Stat_t
	must(t, unix.Stat(path, &st))
	if st.Mode&0o7777 != 0o644 || st.Uid != uid || st.Gid != uid {
		t.Errorf("%s has mode %o and owner %d:%d, want 644 and %d", filepath.Base(path), st.Mode&0o7777, st.Uid, st.Gid, uid)
	}
	must(t, unix.Stat(filepath.Dir(path), &st))
	if st.Mode&0o7777 != 0o711 {
		t.Errorf("the folder has mode %o, want 711", st.Mode&0o7777)
	}
}

func TestFilesThatAreRefused(t *testing.T) {
	n := newNode(t)
	many := strings.Split(strings.Repeat("a ", 65), " ")
	for name, tc := range map[string]struct {
		pod  Pod
		says string
	}{
		"server is a name":         {Pod{DNS: &DNS{Servers: []string{"dns.example"}}}, "dns.example"},
		"server with a line":       {Pod{DNS: &DNS{Servers: []string{"10.0.0.1\nnameserver 6.6.6.6"}}}, "DNS server"},
		"server zone with a line":  {Pod{DNS: &DNS{Servers: []string{"fe80::1%e\noptions x"}}}, "DNS server"},
		"search with a line":       {Pod{DNS: &DNS{Searches: []string{"a\nnameserver 6.6.6.6"}}}, "search"},
		"search with a space":      {Pod{DNS: &DNS{Searches: []string{"a b"}}}, "search"},
		"search too long":          {Pod{DNS: &DNS{Searches: []string{strings.Repeat("a", 256)}}}, "search"},
		"too many search domains":  {Pod{DNS: &DNS{Searches: many[:65]}}, "64"},
		"option with a line":       {Pod{DNS: &DNS{Options: []string{"x\r\nnameserver 6.6.6.6"}}}, "option"},
		"empty option":             {Pod{DNS: &DNS{Options: []string{""}}}, "option"},
		"hostname with a new line": {Pod{Hostname: "a\n127.0.0.1 bank.example"}, "hostname"},
	} {
		t.Run(name, func(t *testing.T) {
			tc.pod.ID = "pod1"
			_, err := n.WriteFiles(t.Context(), tc.pod, Attachment{})
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %v, want an invalid argument that says %q", err, tc.says)
			}
		})
	}
	mustWrite(t, filepath.Join(n.o.EtcDir, "resolv.conf"), strings.Repeat("#", nodeFileMax+1), 0o644)
	if _, err := n.WriteFiles(t.Context(), Pod{ID: "pod1"}, Attachment{}); !errdefs.IsOutOfRange(err) {
		t.Errorf("got %v for a node's file that is too large", err)
	}
}

func TestFilesAndPinsGoInAnyOrder(t *testing.T) {
	for name, removals := range map[string][2]func(*node, *testing.T) error{
		"files first": {(*node).removeFiles, (*node).unpinPod1},
		"pins first":  {(*node).unpinPod1, (*node).removeFiles},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			pod := testPod("pod1")
			_, err := n.Pin(t.Context(), pod)
			must(t, err)
			_, err = n.WriteFiles(t.Context(), pod, Attachment{})
			must(t, err)
			mustWrite(t, filepath.Join(n.Shm(pod), "data"), "x", 0o600)
			for _, remove := range removals {
				must(t, remove(n, t))
			}
		})
	}
}

func (n *node) removeFiles(t *testing.T) error { return n.RemoveFiles(t.Context(), "pod1") }
func (n *node) unpinPod1(t *testing.T) error   { return n.Unpin(t.Context(), "pod1") }
