package integration

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// wantCode fails the test unless err has the gRPC code and its text holds every part.
func wantCode(t testing.TB, err error, code codes.Code, parts ...string) {
	t.Helper()
	if status.Code(err) != code {
		t.Errorf("error is %v, wanted code %s", err, code)
		return
	}
	wantError(t, err, parts...)
}

// wantError fails the test unless err is one and its text holds every part.
func wantError(t testing.TB, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, wanted one with %q", parts)
		return
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error is %q, wanted %q in it", err, p)
		}
	}
}

func listPods(t testing.TB, n *harness.Node) []*runtime.PodSandbox {
	t.Helper()
	r, err := n.Daemon.Runtime.ListPodSandbox(harness.Context(t), &runtime.ListPodSandboxRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return r.Items
}

func listContainers(t testing.TB, n *harness.Node, f *runtime.ContainerFilter) []*runtime.Container {
	t.Helper()
	r, err := n.Daemon.Runtime.ListContainers(harness.Context(t), &runtime.ListContainersRequest{Filter: f})
	if err != nil {
		t.Fatal(err)
	}
	return r.Containers
}

func listImages(t testing.TB, n *harness.Node) []*runtime.Image {
	t.Helper()
	r, err := n.Daemon.Images.ListImages(harness.Context(t), &runtime.ListImagesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return r.Images
}

func pull(ctx context.Context, n *harness.Node, ref string, auth *runtime.AuthConfig) (string, error) {
	r, err := n.Daemon.Images.PullImage(ctx, &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: ref}, Auth: auth})
	return r.GetImageRef(), err
}

// freePort gives a TCP port that nobody listens on.
func freePort(t testing.TB) int32 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return int32(l.Addr().(*net.TCPAddr).Port)
}

func httpGet(url string) (string, error) {
	client := http.Client{Timeout: harness.LongEnough, Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	return string(b), err
}

func ownerOf(t testing.TB, path string) uint32 {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Uid
}

func itoa(i int) string { return strconv.Itoa(i) }

// gone says whether err means that the object does not exist.
func gone(err error) bool { return status.Code(err) == codes.NotFound }
