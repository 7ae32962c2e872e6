package integration

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// metricsOption gives a node whose daemon tells its figures, and where.
func metricsOption(t testing.TB) (harness.Option, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	address := l.Addr().String()
	return harness.Config(fmt.Sprintf("[metrics]\naddress = %q\npprof = true\n", address)), address
}

// goroutines gives the stacks of the daemon's goroutines that have text in them.
func goroutines(t testing.TB, address, text string) (found []string) {
	t.Helper()
	r, err := http.NewRequestWithContext(harness.Context(t), http.MethodGet, "http://"+address+"/debug/pprof/goroutine?debug=2", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Close = true // a connection that waits for more would be a descriptor of the daemon
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, stack := range strings.Split(string(b), "\n\n") {
		if strings.Contains(stack, text) {
			found = append(found, stack)
		}
	}
	return found
}

// nothingIsLeft waits until no goroutine of the daemon, no FIFO and no descriptor of a stream is there any more. The node's
// own leak check counts the sockets.
func nothingIsLeft(t testing.TB, n *harness.Node, address string) {
	t.Helper()
	var stacks, fifos, files []string
	defer func() {
		if t.Failed() {
			t.Logf("FIFOs %q\ndescriptors %q\ngoroutines %s", fifos, files, strings.Join(stacks, "\n\n"))
		}
	}()
	harness.Eventually(t, "nothing of the streams is left", func() bool {
		stacks = nil
		for _, part := range []string{"StreamBackend", "spdystream", "wsstream", "cri.(*inPipe)", "cri.(*outPipe)", "cri/stream.(*Server).ServeHTTP"} {
			stacks = append(stacks, goroutines(t, address, part)...)
		}
		fifos, _ = filepath.Glob(filepath.Join(n.StateDir(), "exec/*"))
		files = streamFiles(n.Daemon.PID())
		shims, _ := n.Daemon.Shims()
		for _, pid := range shims {
			files = append(files, streamFiles(pid)...)
		}
		return len(stacks) == 0 && len(fifos) == 0 && len(files) == 0
	})
}

// streamFiles gives a process's descriptors of stream FIFOs.
func streamFiles(pid int) (found []string) {
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if to, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil && strings.Contains(to, "/exec/") {
			found = append(found, fmt.Sprintf("%d: %s", pid, to))
		}
	}
	return found
}
