package kubelet

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	utilexec "k8s.io/client-go/util/exec"
)

// protocols are the two that kubectl speaks.
var protocols = []string{"SPDY", "WebSocket"}

// stream opens exec or attach of a pod, as kubectl does, until it ends or ctx does.
func (p *pod) stream(ctx context.Context, protocol, subresource string, options runtime.Object, s remotecommand.StreamOptions) error {
	url := p.n.Client.CoreV1().RESTClient().Post().Resource("pods").Namespace(p.namespace).Name(p.name).SubResource(subresource).
		VersionedParams(options, scheme.ParameterCodec).URL()
	executor, err := remotecommand.NewSPDYExecutor(p.n.Config, http.MethodPost, url)
	if protocol == "WebSocket" {
		executor, err = remotecommand.NewWebSocketExecutor(p.n.Config, http.MethodGet, url.String())
	}
	if err != nil {
		return err
	}
	return executor.StreamWithContext(ctx, s)
}

func TestExec(t *testing.T) {
	t.Parallel()
	n := start(t)
	p := n.run(t, podOf("exec", []corev1.Container{sh("app", app1, "sleep infinity")}))
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			var stdout, stderr bytes.Buffer
			err := p.stream(limited(t), protocol, "exec", &corev1.PodExecOptions{
				Container: "app", Command: []string{"sh", "-c", "cat; echo problem >&2; exit 7"}, Stdin: true, Stdout: true, Stderr: true,
			}, remotecommand.StreamOptions{Stdin: strings.NewReader("hello\n"), Stdout: &stdout, Stderr: &stderr})
			var exit utilexec.ExitError
			if !errors.As(err, &exit) || exit.ExitStatus() != 7 {
				t.Errorf("ends with %v, want exit code 7", err)
			}
			if stdout.String() != "hello\n" || stderr.String() != "problem\n" {
				t.Errorf("stdout %q, stderr %q", stdout.String(), stderr.String())
			}
		})
		t.Run(protocol+" terminal", func(t *testing.T) {
			t.Parallel()
			var stdout bytes.Buffer
			err := p.stream(limited(t), protocol, "exec", &corev1.PodExecOptions{
				// It waits for the size, which comes after the start.
				Container: "app", Command: []string{"sh", "-c", `test -t 0 && until [ "$(stty size)" = "33 77" ]; do sleep 0.02; done; stty size`},
				Stdin: true, Stdout: true, TTY: true,
			}, remotecommand.StreamOptions{Stdin: neverRead{}, Stdout: &stdout, Tty: true, TerminalSizeQueue: &oneSize{remotecommand.TerminalSize{Width: 77, Height: 33}}})
			if err != nil || !strings.Contains(stdout.String(), "33 77") {
				t.Errorf("prints %q, ends with %v", stdout.String(), err)
			}
		})
	}
}

// oneSize gives a size once.
type oneSize struct{ size remotecommand.TerminalSize }

func (q *oneSize) Next() *remotecommand.TerminalSize {
	if q.size == (remotecommand.TerminalSize{}) {
		return nil
	}
	size := q.size
	q.size = remotecommand.TerminalSize{}
	return &size
}

// neverRead is a keyboard that nobody touches; the test's end frees its reader.
type neverRead struct{}

func (neverRead) Read([]byte) (int, error) { select {} }

func TestPortForward(t *testing.T) {
	t.Parallel()
	n := start(t)
	p := n.run(t, podOf("forward", []corev1.Container{sh("web", app1, serving)}))
	awaitServing(t, p.get(t).Status.PodIP)
	url := n.Client.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(p.name).SubResource("portforward").URL()
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			transport, upgrader, err := spdy.RoundTripperFor(n.Config)
			if err != nil {
				t.Fatal(err)
			}
			dialer := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, url)
			if protocol == "WebSocket" {
				if dialer, err = portforward.NewSPDYOverWebsocketDialer(url, n.Config); err != nil {
					t.Fatal(err)
				}
			}
			stop, ready := make(chan struct{}), make(chan struct{})
			forward, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, []string{"0:8080"}, stop, ready, io.Discard, io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- forward.ForwardPorts() }()
			select {
			case <-ready:
			case err := <-ended:
				t.Fatal(err)
			}
			ports, err := forward.GetPorts()
			if err != nil {
				t.Fatal(err)
			}
			for range 3 {
				if got, err := askAt("127.0.0.1", int(ports[0].Local)); err != nil || got != "1" {
					t.Errorf("through the forwarded port: %q, %v", got, err)
				}
			}
			close(stop)
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}
