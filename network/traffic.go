package network

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Interface is what passed through one of a pod's network interfaces since it was made, in bytes and packets.
type Interface struct {
	Name   string
	Rx, Tx Traffic
}

// Traffic is one direction of it. Dropped packets are not among Packets.
type Traffic struct {
	Bytes, Packets, Errors, Dropped uint64
}

// A pod with CAP_NET_ADMIN can make as many interfaces as it likes and name them as it likes: what is read of them is
// bounded.
const (
	interfacesMax    = 64
	interfacesBytes  = 64 << 10
	trafficColumns   = 16
	trafficTxColumn  = 8
	trafficFile      = "/proc/thread-self/net/dev"
	loopbackName     = "lo"
	trafficHeadLines = 2
)

// Interfaces reads the counters of the pod's interfaces, the one that CNI made first, loopback left out. On the host network
// there is none. NotFound: the pod's namespace is not pinned.
func (m *Manager) Interfaces(_ context.Context, pod Pod) ([]Interface, error) {
	if err := checkID(pod.ID); err != nil {
		return nil, err
	}
	path := m.Namespaces(pod).Net
	if path == "" {
		return nil, nil
	}
	var text []byte
	err := onThread(func() error {
		if err := enter(path, unix.CLONE_NEWNET); err != nil {
			return err
		}
		f, err := os.Open(trafficFile)
		if err != nil {
			return err
		}
		defer f.Close()
		text, err = io.ReadAll(io.LimitReader(f, interfacesBytes))
		return err
	})
	// EINVAL: a plain file is left of the pin, after a reboot or half way through its removal.
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EINVAL) {
		return nil, fmt.Errorf("network namespace of sandbox %s (%s) is gone: %w", pod.ID, filepath.Base(path), errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("read the interfaces of sandbox %s: %w", pod.ID, err)
	}
	return parseTraffic(text), nil
}

// parseTraffic reads the kernel's table of network devices (proc_pid_net(5), "net/dev"): two lines of titles, then one for each
// device, eight columns received and eight sent. A line cut off at the end, and names that are not UTF-8, which no
// message can carry, are left out.
func parseTraffic(text []byte) []Interface {
	var list []Interface
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 0; lines.Scan(); n++ {
		name, rest, found := strings.Cut(lines.Text(), ":")
		name = strings.TrimSpace(name)
		columns := strings.Fields(rest)
		if n < trafficHeadLines || !found || name == loopbackName || !utf8.ValidString(name) || len(columns) < trafficColumns {
			continue
		}
		i := Interface{Name: name, Rx: traffic(columns), Tx: traffic(columns[trafficTxColumn:])}
		switch {
		case name == ifName:
			list = append([]Interface{i}, list...)
		case len(list) < interfacesMax:
			list = append(list, i)
		}
	}
	return list[:min(len(list), interfacesMax)]
}

// traffic reads bytes, packets, errs and drop, the first columns of each direction.
func traffic(columns []string) Traffic {
	number := func(i int) uint64 {
		n, _ := strconv.ParseUint(columns[i], 10, 64)
		return n
	}
	return Traffic{Bytes: number(0), Packets: number(1), Errors: number(2), Dropped: number(3)}
}
