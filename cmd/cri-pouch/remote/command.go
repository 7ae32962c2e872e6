// Package remote is the client of the URLs that CRI gives for exec, attach and port-forward: the kubelet's protocols over
// SPDY, as far as the commands need them.
package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
)

// Size is a terminal's, in cells.
type Size = remotecommand.TerminalSize

// Streams are the caller's side of a command; what is nil was not asked for.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
	TTY      bool
	// Sizes are the sizes of the caller's terminal, the present one first.
	Sizes <-chan Size
}

// Run opens the URL of an exec or an attach with the streams that it was asked for, and gives the exit code. It returns
// when the other side has ended; reading from In may go on for one more read.
func Run(ctx context.Context, url string, s Streams) (code int, err error) {
	conn, err := dial(ctx, url, remotecommand.StreamProtocolV4Name)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	c := &command{conn: conn, streams: s}
	if err := c.open(); err != nil {
		return 0, err
	}
	code, err = c.run()
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	return code, err
}

// command is one exec or attach under way.
type command struct {
	conn                             *connection
	streams                          Streams
	status, stdin, out, eout, resize httpstream.Stream
}

// open makes the streams; the server waits for exactly those that were asked for.
func (c *command) open() error {
	for _, s := range []struct {
		kind   string
		wanted bool
		to     *httpstream.Stream
	}{
		{remotecommand.StreamTypeError, true, &c.status},
		{remotecommand.StreamTypeStdin, c.streams.In != nil, &c.stdin},
		{remotecommand.StreamTypeStdout, c.streams.Out != nil, &c.out},
		{remotecommand.StreamTypeStderr, c.streams.Err != nil, &c.eout},
		{remotecommand.StreamTypeResize, c.streams.TTY, &c.resize},
	} {
		if !s.wanted {
			continue
		}
		stream, err := c.conn.CreateStream(http.Header{remotecommand.StreamType: {s.kind}})
		if err != nil {
			return fmt.Errorf("open stream %s: %w", s.kind, err)
		}
		*s.to = stream
	}
	return nil
}

func (c *command) run() (int, error) {
	if c.stdin != nil {
		go func() {
			_, _ = io.Copy(c.stdin, c.streams.In)
			_ = c.stdin.Close()
		}()
	}
	if c.resize != nil {
		go c.sendSizes()
	}
	var wg sync.WaitGroup
	var outErr, errErr error
	if c.out != nil {
		wg.Go(func() { _, outErr = io.Copy(c.streams.Out, c.out) })
	}
	if c.eout != nil {
		wg.Go(func() { _, errErr = io.Copy(c.streams.Err, c.eout) })
	}
	status, err := io.ReadAll(c.status)
	if err != nil {
		return 0, fmt.Errorf("read the end of the command: %w", err)
	}
	wg.Wait()
	if err := errors.Join(outErr, errErr); err != nil {
		return 0, fmt.Errorf("write output: %w", err)
	}
	return exitCode(status)
}

func (c *command) sendSizes() {
	encoder := json.NewEncoder(c.resize)
	for {
		select {
		case size, ok := <-c.streams.Sizes:
			if !ok || encoder.Encode(size) != nil {
				return
			}
		case <-c.conn.CloseChan():
			return
		}
	}
}

// exitCode reads the status that ends protocol v4: metav1.Status of Kubernetes.
func exitCode(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, errors.New("the connection ended before the command did: its process is killed, an attached container goes on")
	}
	var s struct {
		Status, Reason, Message string
		Details                 struct {
			Causes []struct{ Reason, Message string }
		}
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return 0, fmt.Errorf("the daemon ended the stream with %.200q", b)
	}
	if s.Status == "Success" {
		return 0, nil
	}
	if s.Reason == remotecommand.NonZeroExitCodeReason {
		for _, c := range s.Details.Causes {
			if c.Reason != remotecommand.ExitCodeCauseType {
				continue
			}
			if code, err := strconv.Atoi(c.Message); err == nil {
				return code, nil
			}
		}
	}
	return 0, errors.New(s.Message)
}
