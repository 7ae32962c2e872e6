package leak

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// recorder stands in for the test that is checked.
type recorder struct {
	testing.TB
	said []string
}

func (r *recorder) Helper() {}

func (r *recorder) Errorf(format string, args ...any) {
	r.said = append(r.said, fmt.Sprintf(format, args...))
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes mounts, links, cgroups and namespaces")
	}
}

// checkFinds makes a leak and wants it to be found by each of the names, and by no other; cleared up, it is no leak.
func checkFinds(t *testing.T, scope Scope, makeLeak func() (clear func()), names ...string) {
	t.Helper()
	s := Take(t, scope)
	clear := makeLeak()
	s.scope.Settle = time.Millisecond
	var r recorder
	s.Check(&r)
	if len(r.said) != len(names) {
		clear()
		t.Fatalf("found %q, want %d leaks: %q", r.said, len(names), names)
	}
	for _, name := range names {
		if !slices.ContainsFunc(r.said, func(line string) bool { return strings.Contains(line, name) }) {
			t.Errorf("found %q, want %q", r.said, name)
		}
	}
	clear()
	s.scope.Settle = 10 * time.Second
	s.Check(t)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestFindsFilesAndReservations(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "old"), nil, 0o600))
	checkFinds(t, Scope{FileDirs: []string{dir, filepath.Join(dir, "absent")}}, func() func() {
		must(t, os.MkdirAll(filepath.Join(dir, "sandboxes", "p1"), 0o700))
		must(t, os.Remove(filepath.Join(dir, "old"))) // what goes is no leak
		return func() { must(t, os.RemoveAll(filepath.Join(dir, "sandboxes"))) }
	}, "file "+dir+"/sandboxes", "file "+dir+"/sandboxes/p1")

	network := filepath.Join(dir, "net1")
	must(t, os.Mkdir(network, 0o700))
	checkFinds(t, Scope{CNIDirs: []string{dir}}, func() func() {
		for _, name := range []string{"10.1.2.3", "fd00::3", "lock", "last_reserved_ip.0"} {
			must(t, os.WriteFile(filepath.Join(network, name), []byte("pod1\r\neth0"), 0o600))
		}
		return func() { must(t, os.RemoveAll(network)) }
	}, "IP reservation "+network+`/10.1.2.3 of "pod1`, "net1/fd00::3")
}

func TestFindsMountsAndPins(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	pin := filepath.Join(dir, "pin")
	must(t, os.WriteFile(pin, nil, 0o600))
	checkFinds(t, Scope{MountDirs: []string{dir}, FileDirs: []string{dir}}, func() func() {
		must(t, unix.Mount("x", filepath.Dir(pin), "tmpfs", 0, ""))
		must(t, os.WriteFile(pin, nil, 0o600))
		must(t, unix.Mount("/proc/self/ns/uts", pin, "", unix.MS_BIND, ""))
		return func() {
			must(t, unix.Unmount(pin, unix.MNT_DETACH))
			must(t, unix.Unmount(dir, unix.MNT_DETACH))
		}
	}, "mount "+dir+" (tmpfs)", "pinned namespace "+pin+" (uts:[")
	checkFinds(t, Scope{MountDirs: []string{dir + "-other"}}, func() func() {
		must(t, unix.Mount("x", dir, "tmpfs", 0, ""))
		return func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) }
	})
}

func TestFindsLinks(t *testing.T) {
	needRoot(t)
	name := fmt.Sprintf("lk%d", os.Getpid())
	link := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}
	own := func(link, master string) bool { return strings.HasPrefix(link, name) }
	checkFinds(t, Scope{Link: own}, func() func() {
		must(t, netlink.LinkAdd(link))
		return func() { must(t, netlink.LinkDel(link)) }
	}, "network link "+name+" (bridge)")
}

func TestFindsCgroupsAndWhatRunsInThem(t *testing.T) {
	needRoot(t)
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil || len(mounts) == 0 {
		t.Skipf("needs a cgroup hierarchy: %v", err)
	}
	// One that takes processes without further ado: cpuset of v1 wants CPUs first.
	at := slices.IndexFunc(mounts, func(m *mountinfo.Info) bool { return !strings.Contains(m.VFSOptions, "cpuset") })
	name := fmt.Sprintf("leak-%d", os.Getpid())
	dir := filepath.Join(mounts[at].Mountpoint, name, "pod")
	checkFinds(t, Scope{Cgroup: name}, func() func() {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Skipf("needs cgroups of its own: %v", err)
		}
		cmd := exec.Command("unshare", "--uts", "sh", "-c", "echo; exec cat")
		in, out := start(t, cmd)
		_, err := out.Read(make([]byte, 1))
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Append(nil, cmd.Process.Pid), 0))
		return func() {
			must(t, in.Close())
			_ = cmd.Wait()
			for range 1000 { // the last process is still on its way out
				if err = os.Remove(dir); !errors.Is(err, unix.EBUSY) {
					break
				}
				time.Sleep(time.Millisecond)
			}
			must(t, err)
			must(t, os.Remove(filepath.Dir(dir)))
		}
	}, "cgroup "+dir, "cgroup "+filepath.Dir(dir), "holds uts:[")
}

// start runs the command with pipes for stdin and stdout.
func start(t *testing.T, cmd *exec.Cmd) (in interface{ Close() error }, out interface{ Read([]byte) (int, error) }) {
	t.Helper()
	w, err := cmd.StdinPipe()
	must(t, err)
	r, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	return w, r
}

func TestFindsProcessesOfPrograms(t *testing.T) {
	sleep, err := exec.LookPath("sleep")
	must(t, err)
	program := filepath.Join(t.TempDir(), "leaked-program-with-a-long-name")
	must(t, exec.Command("cp", sleep, program).Run())
	for _, binary := range []string{program, filepath.Base(program)} {
		var cmd *exec.Cmd
		checkFinds(t, Scope{Binaries: []string{binary}}, func() func() {
			cmd = exec.Command(program, "1000")
			must(t, cmd.Start())
			checkZombie(t, binary, cmd)
			cmd = exec.Command(program, "1000")
			must(t, cmd.Start())
			return func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
		}, "process ")
		if line := fmt.Sprintf("%d: %s 1000", cmd.Process.Pid, program); cmd.ProcessState == nil {
			t.Errorf("%s was not ended", line)
		}
	}
}

// checkZombie wants a process that has ended and was not waited for to be found too.
func checkZombie(t *testing.T, binary string, cmd *exec.Cmd) {
	t.Helper()
	must(t, cmd.Process.Kill())
	must(t, unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil))
	found := inventory{}
	must(t, Scope{Binaries: []string{binary}}.processes(found))
	if len(found["zombie"]) != 1 {
		t.Errorf("found %v, want a zombie of %s", found, binary)
	}
	_ = cmd.Wait()
}

func TestFindsDescriptorsAndThreads(t *testing.T) {
	needRoot(t)
	own := Scope{Pids: func() []int { return []int{os.Getpid()} }}
	checkFinds(t, own, func() func() {
		r, w, err := os.Pipe()
		must(t, err)
		ns, err := os.Open("/proc/self/ns/net")
		must(t, err)
		return func() { r.Close(); w.Close(); ns.Close() }
	}, "pipe:[N], 2 times", "net:[N]")
	checkFinds(t, own, func() func() {
		ready, end := make(chan error), make(chan struct{})
		go strayOffMain(ready, end)
		must(t, <-ready)
		return func() { close(end) }
	}, "thread ")
}

// strayOffMain holds a thread in another namespace until end. It is not the main one, which stands for the process.
func strayOffMain(ready chan<- error, end <-chan struct{}) {
	runtime.LockOSThread() // for good: the thread ends with the goroutine
	if unix.Gettid() == os.Getpid() {
		go strayOffMain(ready, end)
		<-end
		runtime.UnlockOSThread()
		return
	}
	ready <- unix.Unshare(unix.CLONE_NEWUTS)
	<-end
}

func TestFindsWhatTheCallerLists(t *testing.T) {
	names := []string{"base"}
	scope := Scope{Held: map[string]func() ([]string, error){"snapshot": func() ([]string, error) { return names, nil }}}
	checkFinds(t, scope, func() func() {
		names = append(names, "c1", "c1")
		return func() { names = names[:1] }
	}, "snapshot c1, 2 times")

	s := Take(t, scope)
	scope.Held["lease"] = func() ([]string, error) { return nil, errors.New("engine is gone") }
	var r recorder
	s.Check(&r)
	if len(r.said) != 1 || !strings.Contains(r.said[0], "engine is gone") {
		t.Errorf("said %q, want the error: what cannot be looked at is not clean", r.said)
	}
}

func TestCheckWaitsForWhatEndsOnItsOwn(t *testing.T) {
	calls := 0
	s := Take(t, Scope{Held: map[string]func() ([]string, error){"lease": func() ([]string, error) {
		if calls++; calls == 1 || calls > 3 {
			return nil, nil
		}
		return []string{"l1"}, nil
	}}})
	s.Check(t)
	if calls != 4 {
		t.Errorf("looked %d times, want 4", calls)
	}
}

func TestFindsRules(t *testing.T) {
	needRoot(t)
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs nft")
	}
	table := fmt.Sprintf("cni_leak%d", os.Getpid())
	own := func(rule string) bool { return strings.Contains(rule, table) }
	checkFinds(t, Scope{Rule: own}, func() func() {
		nft(t, fmt.Sprintf("add table ip %s; add chain ip %[1]s hostports; add rule ip %[1]s hostports tcp dport 1 counter dnat to 10.1.2.3:80", table))
		return func() { nft(t, "delete table ip "+table) }
	}, `firewall rule tcp dport 1 dnat to 10.1.2.3:80 in chain hostports`)
}

func nft(t *testing.T, text string) {
	t.Helper()
	if out, err := exec.Command("nft", text).CombinedOutput(); err != nil {
		t.Fatalf("nft %s: %v: %s", text, err, out)
	}
}

// The listings are of a pod that bridge (with ipMasq), firewall and portmap (both backends) attached, and after DEL.
func TestRulesOfPodsAreToldFromThoseOfTheMachine(t *testing.T) {
	for tool, tc := range map[string]struct {
		read func(string) []string
		want []string
	}{
		"iptables": {iptablesRules, []string{
			"chain CNI-5e09e51a36d86c3a5dd322a1 in table nat", "chain CNI-DN-5e09e51a36d86c3a5dd32 in table nat",
			`-A POSTROUTING -s 10.219.0.2/32 -m comment --comment "name: \"lknet\" id: \"abc\"" -j CNI-5e09e51a36d86c3a5dd322a1 in table nat`,
			"--dports 18888,18889 -j CNI-DN-5e09e51a36d86c3a5dd32 in table nat", "--to-destination 10.219.0.2:80 in table nat",
			"-A CNI-FORWARD -s 10.219.0.2/32 -j ACCEPT in table filter", "-A CNI-FORWARD -d 10.219.0.2/32 -m conntrack",
		}},
		"nft": {nftRules, []string{
			`tcp dport 18888 dnat to 10.219.0.2:80 comment "abc" in chain hostports of table ip cni_hostport`,
			`ip saddr 127.0.0.1 ip daddr 10.219.0.2 masquerade comment "abc" in chain masquerading of table ip cni_hostport`,
		}},
	} {
		attached, err := os.ReadFile("testdata/" + tool + "-attached.txt")
		must(t, err)
		detached, err := os.ReadFile("testdata/" + tool + "-detached.txt")
		must(t, err)
		if got := tc.read(string(detached)); len(got) > 0 {
			t.Errorf("rules that stay once made are taken for leaks: %q", got)
		}
		got := strings.Join(tc.read(string(attached)), "\n")
		for _, want := range tc.want {
			if !strings.Contains(got, want) {
				t.Errorf("%s is missing in\n%s", want, got)
			}
		}
	}
}
