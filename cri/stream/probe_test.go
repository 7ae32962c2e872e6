package stream

import (
	"bytes"
	"context"
	"io"
	"testing"
	"time"

	"github.com/moby/spdystream/spdy"
)

func TestFramesAreFollowed(t *testing.T) {
	var spdyBytes bytes.Buffer
	framer, err := spdy.NewFramer(&spdyBytes, bytes.NewReader(nil))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []spdy.Frame{
		&spdy.SynReplyFrame{StreamId: 1}, &spdy.DataFrame{StreamId: 1, Data: make([]byte, 70000)}, &spdy.DataFrame{StreamId: 3},
		&spdy.PingFrame{Id: 2}, &spdy.RstStreamFrame{StreamId: 1, Status: spdy.Cancel}, &spdy.GoAwayFrame{},
	} {
		if err := framer.WriteFrame(f); err != nil {
			t.Fatal(err)
		}
	}
	web := []byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n")
	web = append(web, 0x82, 2, 1, 'x', 0x89, 0, 0x82, 126, 1, 0)
	web = append(web, make([]byte, 256)...)
	web = append(web, 0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0)
	web = append(web, make([]byte, 1<<16)...)
	for name, tc := range map[string]struct {
		new  func() frames
		b    []byte
		want int // frames, and the end of the preamble
	}{
		"SPDY":      {func() frames { return frames{size: spdyFrame} }, spdyBytes.Bytes(), 6},
		"WebSocket": {func() frames { return frames{size: webFrame, preamble: true} }, web, 5},
	} {
		t.Run(name, func(t *testing.T) {
			whole, bytewise := tc.new(), tc.new()
			whole.track(tc.b)
			if !whole.between() {
				t.Error("the end is not between frames")
			}
			got := 0
			for _, b := range tc.b {
				bytewise.track([]byte{b})
				if bytewise.between() {
					got++
				}
			}
			if got != tc.want {
				t.Errorf("%d times between frames, want %d", got, tc.want)
			}
		})
	}
}

// A client whose data fills the socket cannot tell its end; it is found out all the same.
func TestClientGoneBehindUnreadStdin(t *testing.T) {
	f := &fake{}
	f.exec = func(ctx context.Context, _ io.Reader, _ io.Writer) error { return f.hang(ctx) }
	s := serve(t, f)
	s.probeEvery = 20 * time.Millisecond
	raw, _, in, _ := openExec(t, s)
	flood(raw, in)
	raw.Close()
	wantCause(t, f, errGone)
}

// A client that lives is left alone, however long nobody reads it, and the pings do not disturb the streams.
func TestClientLivesBehindUnreadStdin(t *testing.T) {
	release := make(chan struct{})
	f := &fake{exec: func(ctx context.Context, in io.Reader, out io.Writer) error {
		select {
		case <-release:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		n, _ := io.Copy(io.Discard, io.LimitReader(in, 1<<20))
		_, err := out.Write([]byte{byte(n >> 20)})
		return err
	}}
	s := serve(t, f)
	s.probeEvery = 20 * time.Millisecond
	_, _, in, out := openExec(t, s)
	go func() {
		for {
			if _, err := in.Write(make([]byte, 32<<10)); err != nil {
				return
			}
		}
	}()
	time.Sleep(400 * time.Millisecond) // many probes long
	close(release)
	if b, err := io.ReadAll(out); err != nil || len(b) != 1 || b[0] != 1 {
		t.Errorf("%q, %v", b, err)
	}
}
