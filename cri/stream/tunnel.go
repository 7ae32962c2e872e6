package stream

import (
	"bufio"
	"net"
	"net/http"

	"golang.org/x/net/websocket"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// tunnelProtocol is how client-go forwards ports over WebSocket: the messages carry a SPDY connection.
const tunnelProtocol = spdy.HeaderSpdy31 + "+" + portforward.ProtocolV1Name

// tunnel opens the WebSocket of a client that asks for it and serves what it carries. Other requests are served as they are.
func tunnel(w http.ResponseWriter, r *http.Request, serve func(http.ResponseWriter, *http.Request)) {
	if !wsstream.IsWebSocketRequestWithTunnelingProtocol(r) {
		serve(w, r)
		return
	}
	inner := r.Clone(r.Context())
	inner.Header = http.Header{
		httpstream.HeaderConnection: {httpstream.HeaderUpgrade}, httpstream.HeaderUpgrade: {spdy.HeaderSpdy31},
		http.CanonicalHeaderKey(httpstream.HeaderProtocolVersion): {portforward.ProtocolV1Name},
	}
	websocket.Server{
		Handshake: func(c *websocket.Config, _ *http.Request) error {
			c.Protocol = []string{tunnelProtocol}
			return nil
		},
		Handler: func(ws *websocket.Conn) {
			ws.PayloadType = websocket.BinaryFrame
			serve(&upgraded{ws}, inner)
		},
	}.ServeHTTP(w, r)
}

// upgraded is the answer to a request whose upgrade the client knows of already.
type upgraded struct{ conn net.Conn }

// Header is http.ResponseWriter's; nobody reads it.
func (u *upgraded) Header() http.Header { return http.Header{} }

// WriteHeader is http.ResponseWriter's.
func (u *upgraded) WriteHeader(int) {}

// Write is http.ResponseWriter's: of a refusal, for which the protocol has no word.
func (u *upgraded) Write(p []byte) (int, error) { return len(p), nil }

// Hijack is http.Hijacker's.
func (u *upgraded) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return u.conn, bufio.NewReadWriter(bufio.NewReader(u.conn), bufio.NewWriter(u.conn)), nil
}
