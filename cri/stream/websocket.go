package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream/wsstream"
	utilexec "k8s.io/utils/exec"

	"github.com/cri-pouch/cri-pouch/internal/crash"
)

// wantsV5 says that a client speaks the newest protocol over WebSocket, the only one of client-go and with it of crictl. It
// is v4 with a message that closes a stream. wsstream knows it, cri-streaming does not offer it.
func wantsV5(r *http.Request) bool {
	if !wsstream.IsWebSocketRequest(r) {
		return false
	}
	offered := strings.Split(r.Header.Get(wsstream.WebSocketProtocolHeader), ",")
	return slices.ContainsFunc(offered, func(p string) bool { return strings.TrimSpace(p) == remotecommand.StreamProtocolV5Name })
}

// serveV5 opens the streams, runs the command or the attachment with them, and tells the client its end.
func (s *Server) serveV5(w http.ResponseWriter, r *http.Request, o *remotecommand.Options, run func(in io.Reader, out, err io.WriteCloser, resize <-chan remotecommand.TerminalSize) error) {
	channel := func(kind wsstream.ChannelType, wanted bool) wsstream.ChannelType {
		if !wanted {
			return wsstream.IgnoreChannel
		}
		return kind
	}
	channels := []wsstream.ChannelType{
		remotecommand.StreamStdIn:  channel(wsstream.ReadChannel, o.Stdin),
		remotecommand.StreamStdOut: channel(wsstream.WriteChannel, o.Stdout),
		remotecommand.StreamStdErr: channel(wsstream.WriteChannel, o.Stderr),
		remotecommand.StreamErr:    wsstream.WriteChannel,
		remotecommand.StreamResize: wsstream.ReadChannel,
	}
	conn := wsstream.NewConn(map[string]wsstream.ChannelProtocolConfig{remotecommand.StreamProtocolV5Name: {Binary: true, Channels: channels}})
	conn.SetIdleTimeout(s.o.Idle)
	_, streams, err := conn.Open(w, r)
	if err != nil {
		s.o.Log.WithError(err).Debug("a client's WebSocket was not opened")
		return
	}
	defer conn.Close()
	sizes := make(chan remotecommand.TerminalSize)
	crash.Go(s.o.Log, "read the sizes of a client's terminal", func() { readSizes(r.Context(), streams[remotecommand.StreamResize], sizes) })
	// An empty message says that the connection stands.
	_, _ = streams[slices.Index(channels, wsstream.WriteChannel)].Write(nil)
	err = run(streams[remotecommand.StreamStdIn], streams[remotecommand.StreamStdOut], streams[remotecommand.StreamStdErr], sizes)
	if b, err := json.Marshal(statusOf(err)); err == nil {
		_, _ = streams[remotecommand.StreamErr].Write(b)
	}
}

func readSizes(ctx context.Context, from io.Reader, to chan<- remotecommand.TerminalSize) {
	defer close(to)
	for decoder := json.NewDecoder(from); ; {
		var size remotecommand.TerminalSize
		if err := decoder.Decode(&size); err != nil {
			return
		}
		select {
		case to <- size:
		case <-ctx.Done():
			return
		}
	}
}

// status is what clients read of Kubernetes' metav1.Status.
type status struct {
	Status  string         `json:"status"`
	Message string         `json:"message,omitempty"`
	Reason  string         `json:"reason,omitempty"`
	Details *statusDetails `json:"details,omitempty"`
	Code    int            `json:"code,omitempty"`
}

type statusDetails struct {
	Causes []statusCause `json:"causes"`
}

type statusCause struct {
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// statusOf is the end of a command or attachment in the words of the protocol, as cri-streaming says it over SPDY.
func statusOf(err error) status {
	if err == nil {
		return status{Status: "Success"}
	}
	if exit, ok := errors.AsType[utilexec.ExitError](err); ok && exit.Exited() {
		return status{
			Status: "Failure", Reason: remotecommand.NonZeroExitCodeReason,
			Message: fmt.Sprintf("command terminated with non-zero exit code: %v", err),
			Details: &statusDetails{[]statusCause{{remotecommand.ExitCodeCauseType, strconv.Itoa(exit.ExitStatus())}}},
		}
	}
	return status{Status: "Failure", Reason: "InternalError", Message: "Internal error occurred: " + err.Error(), Code: http.StatusInternalServerError}
}
