package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/streaming/pkg/httpstream"
)

// reasonLimit bounds the wait for what the daemon says of a connection that it does not open.
const reasonLimit = time.Second

// Tunnel is one connection to the URL of a port-forward; it carries any number of forwarded connections.
type Tunnel struct {
	conn   *connection
	serial atomic.Int64
	wg     sync.WaitGroup
}

// Forward opens the URL of a port-forward. Close ends it.
func Forward(ctx context.Context, url string) (*Tunnel, error) {
	conn, err := dial(ctx, url, portforward.ProtocolV1Name)
	if err != nil {
		return nil, err
	}
	return &Tunnel{conn: conn}, nil
}

// Close ends the tunnel and all connections in it.
func (t *Tunnel) Close() error {
	err := t.conn.Close()
	t.wg.Wait()
	return err
}

// Done is closed when the tunnel has ended, from whichever side.
func (t *Tunnel) Done() <-chan bool { return t.conn.CloseChan() }

// Serve forwards every connection that l accepts to a port of the pod, until l is closed. failed is told of each
// connection that could not be made, and must be safe for concurrent use.
func (t *Tunnel) Serve(l net.Listener, port uint16, failed func(error)) {
	for {
		local, err := l.Accept()
		if err != nil {
			return
		}
		t.wg.Go(func() {
			if err := t.Connect(local, port); err != nil {
				failed(err)
			}
		})
	}
}

// Connect forwards one connection until both sides have said their last, and closes it.
func (t *Tunnel) Connect(local net.Conn, port uint16) error {
	defer local.Close()
	id := strconv.FormatInt(t.serial.Add(1), 10)
	open := func(kind string) (httpstream.Stream, error) {
		return t.conn.CreateStream(http.Header{
			portforward.StreamType: {kind}, portforward.PortHeader: {strconv.Itoa(int(port))}, portforward.PortForwardRequestIDHeader: {id},
		})
	}
	failure, err := open(portforward.StreamTypeError)
	if err != nil {
		return fmt.Errorf("forward to port %d: %w", port, err)
	}
	_ = failure.Close() // we send nothing there
	data, err := open(portforward.StreamTypeData)
	if err != nil {
		// A connection that is refused may be reset before it is open here; then the reason stands in the other stream.
		defer time.AfterFunc(reasonLimit, func() { _ = failure.Reset() }).Stop()
		if said, readErr := io.ReadAll(failure); readErr == nil && len(said) > 0 {
			return errors.New(string(said))
		}
		return fmt.Errorf("forward to port %d: %w", port, err)
	}
	defer t.conn.RemoveStreams(failure, data)
	go func() {
		_, _ = io.Copy(data, local)
		_ = data.Close()
	}()
	if _, err := io.Copy(local, data); err != nil {
		_ = data.Reset() // nobody takes what the pod still sends
	}
	if half, ok := local.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
	said, err := io.ReadAll(failure)
	if err == nil && len(said) > 0 {
		err = errors.New(string(said))
	}
	return err
}
