package remote

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// dialLimit bounds the way to a connection that speaks SPDY.
const dialLimit = 10 * time.Second

// connection speaks SPDY. Closing it closes the socket first: a goodbye could wait for ever for a server that does not
// read.
type connection struct {
	httpstream.Connection
	raw net.Conn
}

// Close ends the connection at once.
func (c *connection) Close() error {
	err := c.raw.Close()
	_ = c.Connection.Close()
	return err
}

// dial upgrades a connection to the URL to SPDY with a protocol on top of it.
func dial(ctx context.Context, address, protocol string) (*connection, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("the daemon's URL: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	raw, err := dialRaw(ctx, u)
	if err != nil {
		return nil, fmt.Errorf("open the stream at %s: %w", u.Host, err)
	}
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer stop()
	conn, err := upgrade(raw, u, protocol)
	if err != nil {
		raw.Close()
		return nil, fmt.Errorf("open the stream at %s: %w", u.Host, err)
	}
	return &connection{conn, raw}, nil
}

func dialRaw(ctx context.Context, u *url.URL) (net.Conn, error) {
	if u.Scheme != "https" {
		return (&net.Dialer{}).DialContext(ctx, "tcp", u.Host)
	}
	// The URL came over the daemon's own socket, and a loopback address cannot be another machine's.
	ip := net.ParseIP(u.Hostname())
	config := &tls.Config{InsecureSkipVerify: ip != nil && ip.IsLoopback(), ServerName: u.Hostname(), MinVersion: tls.VersionTLS12}
	return (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", u.Host)
}

func upgrade(raw net.Conn, u *url.URL, protocol string) (httpstream.Connection, error) {
	r := &http.Request{Method: http.MethodPost, URL: u, Host: u.Host, Header: http.Header{
		httpstream.HeaderConnection: {httpstream.HeaderUpgrade}, httpstream.HeaderUpgrade: {spdy.HeaderSpdy31},
		httpstream.HeaderProtocolVersion: {protocol},
	}}
	if err := r.Write(raw); err != nil {
		return nil, err
	}
	from := bufio.NewReader(raw)
	resp, err := http.ReadResponse(from, r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
		return nil, fmt.Errorf("%s: %s", resp.Status, strings.TrimSpace(string(b)))
	}
	return spdy.NewClientConnection(&buffered{raw, from})
}

// buffered is a connection of which something has been read already.
type buffered struct {
	net.Conn
	from *bufio.Reader
}

// Read is io.Reader's.
func (b *buffered) Read(p []byte) (int, error) { return b.from.Read(p) }
