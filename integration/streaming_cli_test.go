package integration

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// cli gives a command of the program under test.
func cli(t testing.TB, n *harness.Node, args ...string) *exec.Cmd {
	t.Helper()
	return exec.CommandContext(harness.Context(t), n.Binary, append([]string{"--socket", n.Socket()}, args...)...)
}

func TestStreamCommands(t *testing.T) {
	n := harness.Start(t)
	p := n.RunPod(t)
	p.Run(t, "app", harness.Sh(answering), withStdin(true))
	t.Run("exec", func(t *testing.T) {
		cmd := cli(t, n, "exec", "-i", "app", "sh", "-c", "cat; echo oops >&2; exit 11")
		cmd.Stdin = strings.NewReader("hello")
		var out, errOut bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errOut
		_ = cmd.Run()
		if cmd.ProcessState.ExitCode() != 11 || out.String() != "hello" || errOut.String() != "oops\n" {
			t.Errorf("code %d, %q, %q", cmd.ProcessState.ExitCode(), &out, &errOut)
		}
	})
	t.Run("exec on a terminal of its own", func(t *testing.T) {
		out, err := cli(t, n, "exec", "-t", "app", "tty").CombinedOutput()
		if err != nil || !strings.HasPrefix(string(out), "/dev/pts/") {
			t.Errorf("%v, %q", err, out)
		}
	})
	t.Run("attach", func(t *testing.T) {
		cmd := cli(t, n, "attach", "-i", "app")
		cmd.Stdin = strings.NewReader("one\ntwo\n")
		out, err := cmd.Output()
		if err != nil || string(out) != "got one\ngot two\nthe end\n" {
			t.Errorf("%v, %q", err, out)
		}
	})
	t.Run("port-forward", func(t *testing.T) {
		port := listenIn(t, p, "127.0.0.1:0", echo)
		cmd := cli(t, n, "port-forward", p.Config.Metadata.Name, fmt.Sprintf("0:%d", port))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line := make([]byte, 200)
		read, _ := out.Read(line)
		address, _, found := strings.Cut(string(line[:read]), " -> ")
		if !found {
			t.Fatalf("it says %q", line[:read])
		}
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, _ = io.WriteString(c, "hello ")
		_ = c.(*net.TCPConn).CloseWrite()
		if b, err := io.ReadAll(c); err != nil || string(b) != "hello bye" {
			t.Errorf("%q, %v", b, err)
		}
		_ = cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil {
			t.Errorf("after Ctrl-C: %v", err)
		}
	})
	t.Run("wrong ports", func(t *testing.T) {
		for _, arg := range []string{"0", "70000", "80:0", "a:b", "1:2:3", ":"} {
			cmd := cli(t, n, "port-forward", p.ID, arg)
			if out, _ := cmd.CombinedOutput(); cmd.ProcessState.ExitCode() != 2 {
				t.Errorf("%q: code %d, %q", arg, cmd.ProcessState.ExitCode(), out)
			}
		}
	})
}

func TestStreamsOverTLS(t *testing.T) {
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"cert": {Type: "CERTIFICATE", Bytes: der}, "key": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	n := harness.Start(t, harness.Config(fmt.Sprintf("[streaming]\ntls_cert = %q\ntls_key = %q\n", filepath.Join(dir, "cert"), filepath.Join(dir, "key"))))
	c := n.RunPod(t).Run(t, "app")
	url := c.ExecURL(t, false, "sh", "-c", "cat; exit 4")
	if !strings.HasPrefix(url, "https://127.0.0.1:") {
		t.Errorf("the URL is %s", url)
	}
	s := harness.OpenStream(t, url, true, false)
	s.Send(t, "hello")
	s.In.Close()
	if code, err := s.End(t); err != nil || code != 4 || s.Out.String() != "hello" {
		t.Errorf("code %d, %v, %q", code, err, s.Out)
	}
	gone := c.OpenExec(t, false, "sh", "-c", "echo begun; sleep 98765")
	gone.Await(t, "begun")
	gone.Leave()
	harness.Eventually(t, "the command is killed", func() bool { return !strings.Contains(c.Exec(t, "ps", "-o", "args"), "98765") })
}
