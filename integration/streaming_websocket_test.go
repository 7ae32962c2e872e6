package integration

import (
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/websocket"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// socket is a client that speaks channels over WebSocket: the first byte of a message is its channel.
type socket struct {
	*websocket.Conn
	got map[byte]string
}

func dialSocket(t testing.TB, url string) *socket { return dialProtocol(t, url, "v4.channel.k8s.io") }

func dialProtocol(t testing.TB, url, protocol string) *socket {
	t.Helper()
	config, err := websocket.NewConfig(strings.Replace(url, "http://", "ws://", 1), "http://localhost/")
	if err != nil {
		t.Fatal(err)
	}
	config.Protocol = []string{protocol}
	conn, err := websocket.DialConfig(config)
	if err != nil {
		t.Fatalf("open the WebSocket: %v", err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(harness.Patience(2 * harness.LongEnough)))
	return &socket{conn, map[byte]string{}}
}

func (s *socket) send(t testing.TB, channel byte, text string) {
	t.Helper()
	if err := websocket.Message.Send(s.Conn, append([]byte{channel}, text...)); err != nil {
		t.Fatalf("send: %v", err)
	}
}

// until receives until a channel holds text.
func (s *socket) until(t testing.TB, channel byte, text string) {
	t.Helper()
	for !strings.Contains(s.got[channel], text) {
		var b []byte
		if err := websocket.Message.Receive(s.Conn, &b); err != nil {
			t.Fatalf("no %q on channel %d, %v: %q", text, channel, err, s.got)
		}
		if len(b) > 0 {
			s.got[b[0]] += string(b[1:])
		}
	}
}

func TestStreamsOverWebSocket(t *testing.T) {
	metrics, address := metricsOption(t)
	n := harness.Start(t, metrics)
	p := n.RunPod(t)
	c := p.Run(t, "app", harness.Sh(answering), withStdin(false))
	t.Run("exec", func(t *testing.T) {
		s := dialSocket(t, c.ExecURL(t, false, "sh", "-c", "read x; echo got $x; echo oops >&2; exit 6"))
		s.send(t, 0, "this\n")
		s.until(t, 3, "}")
		var status struct {
			Reason  string
			Details struct{ Causes []struct{ Message string } }
		}
		if err := json.Unmarshal([]byte(s.got[3]), &status); err != nil || status.Reason != "NonZeroExitCode" || status.Details.Causes[0].Message != "6" {
			t.Errorf("status %q, %v", s.got[3], err)
		}
		if s.got[1] != "got this\n" || s.got[2] != "oops\n" {
			t.Errorf("%q", s.got)
		}
	})
	t.Run("exec with stdin half-closed, which v5 can", func(t *testing.T) {
		s := dialProtocol(t, c.ExecURL(t, false, "sh", "-c", "cat; echo after the end >&2; exit 8"), "v5.channel.k8s.io")
		s.send(t, 0, "this\n")
		s.send(t, 255, "\x00")
		s.until(t, 3, `"reason":"ExitCode","message":"8"`)
		if s.got[1] != "this\n" || s.got[2] != "after the end\n" {
			t.Errorf("%q", s.got)
		}
		well := dialProtocol(t, c.ExecURL(t, false, "true"), "v5.channel.k8s.io")
		well.until(t, 3, `"status":"Success"`)
	})
	t.Run("attach with v5", func(t *testing.T) {
		s := dialProtocol(t, c.AttachURL(t), "v5.channel.k8s.io")
		s.send(t, 0, "five\n")
		s.until(t, 1, "got five\n")
	})
	t.Run("exec on a terminal", func(t *testing.T) {
		s := dialSocket(t, c.ExecURL(t, true, "sh"))
		s.send(t, 4, `{"Width":77,"Height":33}`)
		harness.Eventually(t, "the terminal has the size", func() bool {
			s.send(t, 0, "stty size; echo asked\n")
			s.got[1] = ""
			s.until(t, 1, "asked\r\n")
			return strings.Contains(s.got[1], "33 77")
		})
	})
	t.Run("exec whose client vanishes", func(t *testing.T) {
		s := dialSocket(t, c.ExecURL(t, false, "sh", "-c", "echo begun; sleep 98765"))
		s.until(t, 1, "begun")
		s.Close()
		harness.Eventually(t, "the command is killed", func() bool { return !strings.Contains(c.Exec(t, "ps", "-o", "args"), "98765") })
	})
	t.Run("attach", func(t *testing.T) {
		s := dialSocket(t, c.AttachURL(t))
		s.send(t, 0, "one\n")
		s.until(t, 1, "got one\n")
		s.until(t, 2, "oops one\n")
	})
	t.Run("port-forward", func(t *testing.T) {
		port := listenIn(t, p, "127.0.0.1:0", func(c *net.TCPConn) {
			b := make([]byte, 100)
			n, _ := c.Read(b)
			_, _ = c.Write([]byte("got " + string(b[:n])))
		})
		r, err := n.Daemon.Runtime.PortForward(harness.Context(t), &runtime.PortForwardRequest{PodSandboxId: p.ID, Port: []int32{int32(port), 1}})
		if err != nil {
			t.Fatal(err)
		}
		s := dialSocket(t, r.Url)
		s.send(t, 0, "this")
		s.until(t, 0, "got this")
		s.until(t, 3, "refused")
		if said := binary.LittleEndian.Uint16([]byte(s.got[0])); said != port {
			t.Errorf("the data channel is that of port %d, want %d", said, port)
		}
	})
	t.Run("port-forward through SPDY inside", func(t *testing.T) {
		port := listenIn(t, p, "127.0.0.1:0", echo)
		r, err := n.Daemon.Runtime.PortForward(harness.Context(t), &runtime.PortForwardRequest{PodSandboxId: p.ID})
		if err != nil {
			t.Fatal(err)
		}
		s := dialProtocol(t, r.Url, "SPDY/3.1+portforward.k8s.io")
		s.PayloadType = websocket.BinaryFrame
		conn, err := spdy.NewClientConnection(s.Conn)
		if err != nil {
			t.Fatal(err)
		}
		var streams []httpstream.Stream
		for _, kind := range []string{"error", "data"} {
			stream, err := conn.CreateStream(http.Header{"Streamtype": {kind}, "Port": {strconv.Itoa(int(port))}, "Requestid": {"1"}})
			if err != nil {
				t.Fatal(err)
			}
			streams = append(streams, stream)
		}
		_, _ = io.WriteString(streams[1], "hello ")
		streams[1].Close()
		if b, err := io.ReadAll(streams[1]); err != nil || string(b) != "hello bye" {
			t.Errorf("%q, %v", b, err)
		}
	})
	nothingIsLeft(t, n, address)
}
