package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/atomicfile"
	"github.com/cri-pouch/cri-pouch/internal/failpoint"
	"github.com/cri-pouch/cri-pouch/internal/mountpoint"
)

// nodeFileMax bounds what is taken over of the node's files, in bytes.
const nodeFileMax = 1 << 20

// Bounds of a pod's folder. Containers may write to the files in it: there is room for what the node's files have, and for one
// that is being written.
const (
	folderBytes = 4 << 20
	folderFiles = 16
)

// makeFolder makes the folder of a sandbox, unless it is there.
func (m *Manager) makeFolder(id string) error {
	if err := os.MkdirAll(m.o.sandboxesDir(), 0o711); err != nil {
		return err
	}
	return mountpoint.Tmpfs(filepath.Join(m.o.sandboxesDir(), id), folderBytes, folderFiles, 0o711)
}

// dropFolder removes the folder of a sandbox if there is nothing in it any more: files and /dev/shm go one after the other.
func (m *Manager) dropFolder(id string) error {
	dir := filepath.Join(m.o.sandboxesDir(), id)
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		return ignoreAbsent(err)
	}
	if err := mountpoint.Clear(dir); err != nil {
		return err
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTEMPTY) {
		return fmt.Errorf("remove folder of sandbox %s: %w", id, err)
	}
	return nil
}

// Files gives the paths of the pod's files, whether they exist or not.
func (m *Manager) Files(sandboxID string) Files {
	dir := filepath.Join(m.o.sandboxesDir(), sandboxID)
	return Files{Hosts: filepath.Join(dir, "hosts"), ResolvConf: filepath.Join(dir, "resolv.conf"), Hostname: filepath.Join(dir, "hostname")}
}

// WriteFiles makes hosts, resolv.conf and hostname of the pod, readable by all and owned by the pod's root. On the host
// network hosts is a copy of the node's; without DNS in pod, resolv.conf is. Doing it again gives the same.
func (m *Manager) WriteFiles(ctx context.Context, pod Pod, a Attachment) (Files, error) {
	if _, err := checkPod(pod); err != nil {
		return Files{}, err
	}
	content, err := m.contents(pod, a)
	if err != nil {
		return Files{}, fmt.Errorf("files of sandbox %s: %w", pod.ID, err)
	}
	unlock, err := m.locks.lock(ctx, pod.ID)
	if err != nil {
		return Files{}, err
	}
	defer unlock()
	if err := m.makeFolder(pod.ID); err != nil {
		return Files{}, fmt.Errorf("make folder of sandbox %s: %w", pod.ID, err)
	}
	for path, text := range content {
		if err := writeFile(path, text, pod); err != nil {
			return Files{}, fmt.Errorf("write %s of sandbox %s: %w", filepath.Base(path), pod.ID, err)
		}
	}
	failpoint.Hit("network.files-written")
	return m.Files(pod.ID), nil
}

// RemoveFiles removes the pod's files; what is already gone is no error.
func (m *Manager) RemoveFiles(ctx context.Context, sandboxID string) error {
	if err := checkID(sandboxID); err != nil {
		return err
	}
	unlock, err := m.locks.lock(ctx, sandboxID)
	if err != nil {
		return err
	}
	defer unlock()
	files := m.Files(sandboxID)
	errs := []error{m.releaseFiles(sandboxID)}
	for _, path := range []string{files.Hosts, files.ResolvConf, files.Hostname} {
		errs = append(errs, atomicfile.Remove(path))
	}
	errs = append(errs, m.dropFolder(sandboxID))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove files of sandbox %s: %w", sandboxID, err)
	}
	return nil
}

// releaseFiles makes sure that the files can be removed, whatever root in a container has done to
// them: their filesystem may be read-only, and they immutable (FS_IMMUTABLE_FL). Without /dev/shm
// in it there is nothing else, and the filesystem goes.
func (m *Manager) releaseFiles(id string) error {
	if _, err := os.Lstat(m.shmDir(id)); errors.Is(err, os.ErrNotExist) {
		return mountpoint.Clear(filepath.Dir(m.shmDir(id)))
	}
	return mountpoint.Writable(filepath.Dir(m.shmDir(id)))
}

// contents gives what stands in each file, by path.
func (m *Manager) contents(pod Pod, a Attachment) (map[string]string, error) {
	name := pod.Hostname
	if name == "" || pod.HostNetwork {
		var uts unix.Utsname
		if err := unix.Uname(&uts); err != nil {
			return nil, fmt.Errorf("ask for the node's hostname: %w", err)
		}
		name = unix.ByteSliceToString(uts.Nodename[:])
	}
	hosts := podHosts(name, a.IPs)
	if pod.HostNetwork {
		var err error
		if hosts, err = m.nodeFile("hosts"); err != nil {
			return nil, err
		}
	}
	resolv, err := m.resolvConf(pod)
	if err != nil {
		return nil, err
	}
	files := m.Files(pod.ID)
	return map[string]string{files.Hosts: hosts, files.ResolvConf: resolv, files.Hostname: name + "\n"}, nil
}

func (m *Manager) resolvConf(pod Pod) (string, error) {
	if pod.DNS == nil {
		return m.nodeFile("resolv.conf")
	}
	return pod.DNS.text()
}

func podHosts(name string, ips []netip.Addr) string {
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n")
	short, _, qualified := strings.Cut(name, ".")
	for _, ip := range ips {
		fmt.Fprintf(&b, "%s\t%s", ip, name)
		if qualified {
			b.WriteString(" " + short)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// nodeFile reads a file of the node's /etc; that it is missing is no error: the node has none, nor has the pod.
func (m *Manager) nodeFile(name string) (string, error) {
	f, err := os.Open(filepath.Join(m.o.EtcDir, name))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read the node's %s: %w", name, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, nodeFileMax+1))
	if err == nil && len(b) > nodeFileMax {
		err = fmt.Errorf("it is larger than %d bytes: %w", nodeFileMax, errdefs.ErrOutOfRange)
	}
	if err != nil {
		return "", fmt.Errorf("read the node's %s: %w", name, err)
	}
	return string(b), nil
}

// Bounds of a resolv.conf; the kubelet's own are lower.
const (
	dnsEntriesMax = 64
	dnsEntryMax   = 255
)

var (
	serverNames = regexp.MustCompile(`^[a-zA-Z0-9_.:%-]+$`) // an address may have a zone
	searchNames = regexp.MustCompile(`^[a-zA-Z0-9_.-]+$`)
	dnsOptions  = regexp.MustCompile(`^[a-zA-Z0-9_.:-]+$`)
)

// text is the resolv.conf (resolv.conf(5)). Each value is checked: none can bring a line of its own.
func (d DNS) text() (string, error) {
	if err := checkEntries("DNS server", d.Servers, serverNames); err != nil {
		return "", err
	}
	for _, server := range d.Servers {
		if _, err := netip.ParseAddr(server); err != nil {
			return "", fmt.Errorf("DNS server %.80q is no IP address: %w", server, errdefs.ErrInvalidArgument)
		}
	}
	if err := checkEntries("DNS search domain", d.Searches, searchNames); err != nil {
		return "", err
	}
	if err := checkEntries("DNS option", d.Options, dnsOptions); err != nil {
		return "", err
	}
	var b strings.Builder
	if len(d.Searches) > 0 {
		b.WriteString("search " + strings.Join(d.Searches, " ") + "\n")
	}
	for _, server := range d.Servers {
		b.WriteString("nameserver " + server + "\n")
	}
	if len(d.Options) > 0 {
		b.WriteString("options " + strings.Join(d.Options, " ") + "\n")
	}
	return b.String(), nil
}

func checkEntries(what string, list []string, form *regexp.Regexp) error {
	if len(list) > dnsEntriesMax {
		return fmt.Errorf("%d entries of kind %s, at most %d are taken: %w", len(list), what, dnsEntriesMax, errdefs.ErrInvalidArgument)
	}
	for _, entry := range list {
		if len(entry) > dnsEntryMax || !form.MatchString(entry) {
			return fmt.Errorf("%s %.80q is malformed: %w", what, entry, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// writeFile makes the file whole or not at all. One that has the same content stays, since containers have it mounted.
func writeFile(path, text string, pod Pod) error {
	if old, err := os.ReadFile(path); err == nil && string(old) == text {
		return nil
	}
	uid, gid, err := owner(pod)
	if err != nil {
		return err
	}
	return atomicfile.Write(path, []byte(text), atomicfile.Mode(0o644), atomicfile.Owner(int(uid), int(gid)))
}
