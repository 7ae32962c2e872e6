package stream

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"net"
	"net/http"
	"sync"
	"time"

	"k8s.io/streaming/pkg/httpstream/wsstream"

	"github.com/cri-pouch/cri-pouch/internal/crash"
)

// probeEvery is how often it is looked whether anybody reads a connection; if not, its client is asked whether it lives.
const probeEvery = 5 * time.Second

// prober gives out connections that are asked for life while nobody reads them. The protocols have no flow control, so that a
// connection is not read while a command takes no stdin. The end of a client whose data fills the socket does not come
// through then; what is written to it comes back as a reset.
type prober struct {
	http.ResponseWriter
	conn  *conn
	web   bool // WebSocket, else SPDY
	every time.Duration
	done  <-chan struct{}

	hijacked bool
}

func newProber(w http.ResponseWriter, r *http.Request, c *conn, every time.Duration) *prober {
	return &prober{ResponseWriter: w, conn: c, web: wsstream.IsWebSocketRequest(r), every: every, done: r.Context().Done()}
}

// Hijack is http.Hijacker's.
func (p *prober) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	raw, buf, err := http.NewResponseController(p.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	p.hijacked = true
	w := &probed{Conn: raw, frames: frames{size: spdyFrame}, ping: spdyPing}
	if p.web { // its library answers the handshake after this
		w.frames, w.ping = frames{size: webFrame, preamble: true}, webPing
	}
	crash.Go(nil, "probe a client", func() { p.run(w) })
	return w, bufio.NewReadWriter(buf.Reader, bufio.NewWriter(w)), nil
}

func (p *prober) run(w *probed) {
	ticker := time.NewTicker(p.every)
	defer ticker.Stop()
	for last := p.conn.reads.Load(); ; {
		select {
		case <-p.done:
			return
		case <-ticker.C:
		}
		now := p.conn.reads.Load()
		if now == last && p.conn.readers.Load() == 0 {
			w.probe()
		}
		last = now
	}
}

// probed is a connection into whose output pings can be put.
type probed struct {
	net.Conn
	ping []byte

	mu     sync.Mutex
	frames frames
}

// Write is io.Writer's.
func (c *probed) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, err := c.Conn.Write(p)
	c.frames.track(p[:n])
	return n, err
}

// probe writes a ping, unless something else is being written, which asks as well.
func (c *probed) probe() {
	if !c.mu.TryLock() {
		return
	}
	defer c.mu.Unlock()
	if c.frames.between() {
		_, _ = c.Conn.Write(c.ping)
	}
}

var (
	// A PING of SPDY/3.1 (section 2.6.5) with an even number, as a server's are; spdystream uses small ones.
	spdyPing = []byte{0x80, 3, 0, 6, 0, 0, 0, 4, 0x7f, 0xff, 0xff, 0xfe}
	// An empty ping of WebSocket (RFC 6455, section 5.5.2).
	webPing = []byte{0x89, 0}
)

// frames follows where the frames in a stream of bytes begin.
type frames struct {
	// size gives the length of a frame's header, as far as the bytes that are there tell, and of what comes after it.
	size     func(header []byte) (length, payload int)
	preamble bool // an HTTP response comes first
	header   []byte
	left     int
}

func (f *frames) between() bool { return !f.preamble && len(f.header) == 0 && f.left == 0 }

func (f *frames) track(p []byte) {
	for len(p) > 0 {
		if f.left > 0 {
			n := min(f.left, len(p))
			f.left -= n
			p = p[n:]
			continue
		}
		f.header = append(f.header, p[0])
		p = p[1:]
		if f.preamble {
			if bytes.HasSuffix(f.header, []byte("\r\n\r\n")) {
				f.preamble, f.header = false, f.header[:0]
			}
			continue
		}
		if length, payload := f.size(f.header); len(f.header) >= length {
			f.left, f.header = payload, f.header[:0]
		}
	}
}

// spdyFrame is frames.size of SPDY/3.1: all frames have headers of 8 bytes, of which the last three are the length.
func spdyFrame(h []byte) (length, payload int) {
	if len(h) < 8 {
		return 8, 0
	}
	return 8, int(h[5])<<16 | int(h[6])<<8 | int(h[7])
}

// webFrame is frames.size of WebSocket; a server's frames have no mask.
func webFrame(h []byte) (length, payload int) {
	if len(h) < 2 {
		return 2, 0
	}
	switch short := int(h[1] & 0x7f); short {
	case 126:
		if len(h) < 4 {
			return 4, 0
		}
		return 4, int(binary.BigEndian.Uint16(h[2:]))
	case 127:
		if len(h) < 10 {
			return 10, 0
		}
		return 10, int(binary.BigEndian.Uint64(h[2:]))
	default:
		return 2, short
	}
}
