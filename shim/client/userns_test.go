package client_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestUserNamespaceWithIDMappedMount(t *testing.T) {
	l := newLab(t)
	volume := filepath.Join(l.state, "volume")
	if err := os.Mkdir(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(volume, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(l.state, 0o711); err != nil { // root of the namespace must reach its root filesystem
		t.Fatal(err)
	}
	mapping := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	spec := l.spec("c", "sh", "-c", "ls -ln /v/file; cat /proc/self/uid_map; echo again >/dev/stdout; grep CapEff /proc/self/status")
	spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	spec.Linux.UIDMappings, spec.Linux.GIDMappings = mapping, mapping
	spec.Mounts = append(spec.Mounts, specs.Mount{
		Destination: "/v", Type: "bind", Source: volume, Options: []string{"bind"}, UIDMappings: mapping, GIDMappings: mapping,
	})
	l.run(l.request("c", spec))
	if exit := l.finish("c"); exit.Code != 0 {
		t.Errorf("code %d", exit.Code)
	}
	text := l.text("c", "stdout") + l.text("c", "stderr")
	for _, want := range []string{" 0        0 ", "100000", "again\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in:\n%s", want, text)
		}
	}
}

func TestHolderOfAPIDNamespace(t *testing.T) {
	l := newLab(t)
	if _, err := exec.LookPath("musl-gcc"); err != nil {
		t.Skip("needs musl-gcc (package musl-tools)")
	}
	if out, err := exec.Command("make", "-C", "../../init", "OUT="+filepath.Join(l.rootfs, "bin", "pouch-init")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	st, err := os.Stat(filepath.Join(l.rootfs, "bin", "pouch-init"))
	if err != nil || st.Size() > 100<<10 {
		t.Fatalf("%v, %v", st, err)
	}
	l.run(l.request("h", l.spec("h", "pouch-init", "hold")))
	// Orphans become the holder's, which reaps them.
	if _, exit := l.exec("h", "sh", "-c", "(sleep 0.01 &) ; (sleep 0.02 &)"); exit.Code != 0 {
		t.Errorf("code %d", exit.Code)
	}
	l.eventually("the orphans are gone", func() bool {
		pids, err := l.client.Pids(l.ctx, "h")
		return err == nil && len(pids) == 1
	})
	if err := l.client.Kill(l.ctx, "h", uint32(unix.SIGTERM), false); err != nil {
		t.Fatal(err)
	}
	if exit := l.finish("h"); exit.Code != 0 {
		t.Errorf("code %d", exit.Code)
	}
}
