// Package client is what the commands share of talking to the daemon: connect, find what a name means, follow a pull,
// and turn errors into one line that says what to do.
package client

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
)

// maxMessage is the largest message that is taken, in bytes: what the daemon sends at most.
const maxMessage = 16 << 20

// dialLimit bounds the wait for a daemon that has a socket and does not accept.
const dialLimit = 5 * time.Second

// Client holds one connection to the daemon.
type Client struct {
	Runtime runtime.RuntimeServiceClient
	Images  runtime.ImageServiceClient
	Pouch   pouchv1.PouchClient
	conn    *grpc.ClientConn
}

// Dial connects to the daemon at socket (a path, or unix://path). Its error says how to get one.
func Dial(ctx context.Context, socket string) (*Client, error) {
	path := strings.TrimPrefix(socket, "unix://")
	dial := func(ctx context.Context, _ string) (net.Conn, error) {
		return (&net.Dialer{Timeout: dialLimit}).DialContext(ctx, "unix", path)
	}
	// gRPC would say "connection error: desc = ..." at the first call: look first.
	probe, err := dial(ctx, "")
	if err != nil {
		return nil, unreachable(path, err)
	}
	probe.Close()
	conn, err := grpc.NewClient("passthrough:///cri-pouch", grpc.WithContextDialer(dial),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
	if err != nil {
		return nil, err
	}
	return &Client{
		Runtime: runtime.NewRuntimeServiceClient(conn), Images: runtime.NewImageServiceClient(conn),
		Pouch: pouchv1.NewPouchClient(conn), conn: conn,
	}, nil
}

// Close ends the connection.
func (c *Client) Close() { c.conn.Close() }

func unreachable(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("no daemon at %s: start it with `systemctl start cri-pouch` or `cri-pouch serve`, or name its socket with --socket", path)
	case errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("the daemon at %s is gone: start it with `systemctl start cri-pouch` or `cri-pouch serve`", path)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("no permission to use %s: run as root, or as a member of the group that owns it", path)
	case errors.Is(err, unix.ENOTSOCK):
		return fmt.Errorf("%s is no socket: name the daemon's with --socket", path)
	}
	return fmt.Errorf("connect to %s: %w", path, err)
}

// Explain gives the one line that the user sees: the daemon's message without gRPC's wrapping.
func Explain(err error) string {
	text := err.Error()
	if st, ok := status.FromError(err); ok {
		text = withoutClass(strings.Replace(text, "rpc error: code = "+st.Code().String()+" desc = ", "", 1))
		switch st.Code() {
		case codes.Unimplemented:
			text += " (the daemon at this socket cannot do that; is it cri-pouch, and as new as this program?)"
		case codes.Unavailable:
			if strings.HasPrefix(text, "error reading from server") || strings.HasPrefix(text, "connection error") {
				text = "the daemon ended during the call, its log says why: " + text
			}
		case codes.DeadlineExceeded:
			text += " (the daemon goes on with it; look with `cri-pouch ps -a` and `cri-pouch pods`)"
		case codes.Canceled:
			text = "interrupted: " + text
		}
	}
	text = withoutClass(text)
	return strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}

// withoutClass leaves out the name of the error's class that stands at the end of a wrapped error: it says nothing that the
// text before has not said.
func withoutClass(text string) string {
	for _, class := range []error{
		errdefs.ErrNotFound, errdefs.ErrAlreadyExists, errdefs.ErrInvalidArgument, errdefs.ErrFailedPrecondition,
		errdefs.ErrUnavailable, errdefs.ErrNotImplemented, errdefs.ErrAborted, errdefs.ErrInternal,
	} {
		if rest, ok := strings.CutSuffix(text, ": "+class.Error()); ok && rest != "" {
			return rest
		}
	}
	return text
}

// IsNotFound says that err is the daemon's NotFound, or a name that means nothing.
func IsNotFound(err error) bool {
	if _, ok := errors.AsType[*NotFoundError](err); ok {
		return true
	}
	return err != nil && status.Code(err) == codes.NotFound
}
