package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
)

// fake answers with fixed objects and notes what is asked of it. What a runtime does is tested against the real daemon in
// integration/; here it is what the user sees and what is sent.
type fake struct {
	runtime.UnimplementedRuntimeServiceServer
	runtime.UnimplementedImageServiceServer
	pouchv1.UnimplementedPouchServer

	containers []*runtime.Container
	pods       []*runtime.PodSandbox
	images     []*runtime.Image
	pulls      []*pouchv1.Pull
	history    []*pouchv1.Generation
	events     []*pouchv1.EventsResponse
	conditions []*runtime.RuntimeCondition
	logPath    string
	units      *pouchv1.UnitsResponse
	initLog    []byte
	exec       *runtime.ExecSyncResponse
	fail       map[string]error // by RPC

	onRun func(*runtime.RunPodSandboxRequest)

	mu       sync.Mutex
	requests []proto.Message
	imported []byte
	measured int           // how often stats were asked for
	pulling  chan struct{} // if set, PullImage waits until it is closed
}

// sent gives the last request of the type of T.
func sent[T proto.Message](t *testing.T, f *fake) T {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := len(f.requests) - 1; i >= 0; i-- {
		if r, ok := f.requests[i].(T); ok {
			return r
		}
	}
	t.Fatalf("no %T among %v", *new(T), f.requests)
	panic("unreachable")
}

// note is an interceptor: it keeps the request and answers with the failure that the test chose.
func (f *fake) note(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
	f.mu.Lock()
	f.requests = append(f.requests, req.(proto.Message))
	err := f.fail[info.FullMethod[strings.LastIndexByte(info.FullMethod, '/')+1:]]
	f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return h(ctx, req)
}

func (f *fake) serve(t *testing.T) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.UnaryInterceptor(f.note))
	runtime.RegisterRuntimeServiceServer(s, f)
	runtime.RegisterImageServiceServer(s, f)
	pouchv1.RegisterPouchServer(s, f)
	go s.Serve(l) //nolint:errcheck // it ends with Stop
	t.Cleanup(s.Stop)
	return socket
}

func (f *fake) Version(context.Context, *runtime.VersionRequest) (*runtime.VersionResponse, error) {
	return &runtime.VersionResponse{RuntimeName: "cri-pouch", RuntimeVersion: "1.2\x1b", RuntimeApiVersion: "v1"}, nil
}

func (f *fake) Status(context.Context, *runtime.StatusRequest) (*runtime.StatusResponse, error) {
	return &runtime.StatusResponse{Status: &runtime.RuntimeStatus{Conditions: f.conditions}}, nil
}

func (f *fake) ListContainers(context.Context, *runtime.ListContainersRequest) (*runtime.ListContainersResponse, error) {
	return &runtime.ListContainersResponse{Containers: f.containers}, nil
}

func (f *fake) ListPodSandbox(context.Context, *runtime.ListPodSandboxRequest) (*runtime.ListPodSandboxResponse, error) {
	return &runtime.ListPodSandboxResponse{Items: f.pods}, nil
}

func (f *fake) ContainerStatus(_ context.Context, r *runtime.ContainerStatusRequest) (*runtime.ContainerStatusResponse, error) {
	for _, c := range f.containers {
		if c.Id == r.ContainerId {
			return &runtime.ContainerStatusResponse{
				Status: &runtime.ContainerStatus{Id: c.Id, State: c.State, ExitCode: 3, Reason: "OOMKilled", LogPath: f.logPath},
				Info:   map[string]string{"info": `{"pid":7}`},
			}, nil
		}
	}
	// One that run has made: it has ended at once.
	return &runtime.ContainerStatusResponse{Status: &runtime.ContainerStatus{
		Id: r.ContainerId, State: runtime.ContainerState_CONTAINER_EXITED, ExitCode: 3, LogPath: f.logPath,
	}}, nil
}

func (f *fake) PodSandboxStatus(_ context.Context, r *runtime.PodSandboxStatusRequest) (*runtime.PodSandboxStatusResponse, error) {
	s := &runtime.PodSandboxStatus{Id: r.PodSandboxId, Metadata: &runtime.PodSandboxMetadata{Name: "new", Namespace: "default", Uid: "u1"},
		Labels: map[string]string{"l": "pod's"}, Network: &runtime.PodSandboxNetworkStatus{Ip: "10.0.0.9"}}
	for _, p := range f.pods {
		if p.Id == r.PodSandboxId {
			s.Metadata = p.Metadata
			if p.State == runtime.PodSandboxState_SANDBOX_NOTREADY {
				s.Network = nil
			}
		}
	}
	return &runtime.PodSandboxStatusResponse{Status: s}, nil
}

func (f *fake) RunPodSandbox(_ context.Context, r *runtime.RunPodSandboxRequest) (*runtime.RunPodSandboxResponse, error) {
	if f.onRun != nil {
		f.onRun(r)
	}
	return &runtime.RunPodSandboxResponse{PodSandboxId: "newpod"}, nil
}

func (f *fake) StopPodSandbox(context.Context, *runtime.StopPodSandboxRequest) (*runtime.StopPodSandboxResponse, error) {
	return &runtime.StopPodSandboxResponse{}, nil
}

func (f *fake) RemovePodSandbox(context.Context, *runtime.RemovePodSandboxRequest) (*runtime.RemovePodSandboxResponse, error) {
	return &runtime.RemovePodSandboxResponse{}, nil
}

func (f *fake) CreateContainer(context.Context, *runtime.CreateContainerRequest) (*runtime.CreateContainerResponse, error) {
	return &runtime.CreateContainerResponse{ContainerId: "newcontainer"}, nil
}

func (f *fake) StartContainer(context.Context, *runtime.StartContainerRequest) (*runtime.StartContainerResponse, error) {
	return &runtime.StartContainerResponse{}, nil
}

func (f *fake) StopContainer(context.Context, *runtime.StopContainerRequest) (*runtime.StopContainerResponse, error) {
	return &runtime.StopContainerResponse{}, nil
}

func (f *fake) RemoveContainer(context.Context, *runtime.RemoveContainerRequest) (*runtime.RemoveContainerResponse, error) {
	return &runtime.RemoveContainerResponse{}, nil
}

func (f *fake) ExecSync(context.Context, *runtime.ExecSyncRequest) (*runtime.ExecSyncResponse, error) {
	return f.exec, nil
}

func (f *fake) ListImages(context.Context, *runtime.ListImagesRequest) (*runtime.ListImagesResponse, error) {
	return &runtime.ListImagesResponse{Images: f.images}, nil
}

func (f *fake) ImageStatus(_ context.Context, r *runtime.ImageStatusRequest) (*runtime.ImageStatusResponse, error) {
	for _, i := range f.images {
		for _, n := range append([]string{i.Id}, i.RepoTags...) {
			if n == r.GetImage().GetImage() {
				return &runtime.ImageStatusResponse{Image: i, Info: map[string]string{"info": `{"os":"linux"}`}}, nil
			}
		}
	}
	return &runtime.ImageStatusResponse{}, nil
}

func (f *fake) RemoveImage(context.Context, *runtime.RemoveImageRequest) (*runtime.RemoveImageResponse, error) {
	return &runtime.RemoveImageResponse{}, nil
}

func (f *fake) PullImage(ctx context.Context, r *runtime.PullImageRequest) (*runtime.PullImageResponse, error) {
	if f.pulling != nil {
		select {
		case <-f.pulling:
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		}
	}
	return &runtime.PullImageResponse{ImageRef: "sha256:pulled"}, nil
}

func (f *fake) WatchPulls(_ *pouchv1.WatchPullsRequest, s pouchv1.Pouch_WatchPullsServer) error {
	if err := s.Send(&pouchv1.WatchPullsResponse{Pulls: f.pulls}); err != nil {
		return err
	}
	<-s.Context().Done()
	return nil
}

func (f *fake) ImportImage(s pouchv1.Pouch_ImportImageServer) error {
	if err := f.fail["ImportImage"]; err != nil {
		return err // without reading: the client is still sending
	}
	var all []byte
	for {
		r, err := s.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if len(r.Chunk) > 1<<20 {
			return status.Error(codes.InvalidArgument, "chunk is too large")
		}
		all = append(all, r.Chunk...)
	}
	f.mu.Lock()
	f.imported = all
	f.mu.Unlock()
	return s.SendAndClose(&pouchv1.ImportImageResponse{Images: []*pouchv1.ImportedImage{{Name: "a/b:1", Id: "sha256:x"}}})
}

// result is what a command line did.
type result struct {
	code     int
	out, err string
}

// command runs a command line against f.
func command(t *testing.T, f *fake, stdin string, args ...string) result {
	t.Helper()
	var out, err bytes.Buffer
	code := run(t.Context(), append([]string{"--socket", f.serve(t)}, args...), streams{strings.NewReader(stdin), &out, &err})
	return result{code, out.String(), err.String()}
}

// node is a fake with two pods.
func node() *fake {
	ago := func(d time.Duration) int64 { return time.Now().Add(-d).UnixNano() }
	hex := strings.Repeat("0123456789abcdef", 4)
	return &fake{
		fail: map[string]error{},
		pods: []*runtime.PodSandbox{
			{Id: "a1" + hex[2:], Metadata: &runtime.PodSandboxMetadata{Name: "web", Namespace: "prod", Uid: "u-web"}, State: runtime.PodSandboxState_SANDBOX_READY, CreatedAt: ago(3 * time.Hour)},
			{Id: "b2" + hex[2:], Metadata: &runtime.PodSandboxMetadata{Name: "old", Namespace: "prod", Uid: "u-old", Attempt: 2}, State: runtime.PodSandboxState_SANDBOX_NOTREADY, CreatedAt: ago(72*time.Hour + time.Minute)},
		},
		containers: []*runtime.Container{
			{Id: "c1" + hex[2:], PodSandboxId: "a1" + hex[2:], Metadata: &runtime.ContainerMetadata{Name: "app"}, State: runtime.ContainerState_CONTAINER_EXITED,
				Image: &runtime.ImageSpec{Image: "sha256:" + hex}, CreatedAt: ago(2*time.Hour + time.Minute)},
			{Id: "c2" + hex[2:], PodSandboxId: "a1" + hex[2:], Metadata: &runtime.ContainerMetadata{Name: "app", Attempt: 1}, State: runtime.ContainerState_CONTAINER_RUNNING,
				Image: &runtime.ImageSpec{Image: "sha256:" + hex, UserSpecifiedImage: "r.example/app:2"}, CreatedAt: ago(5*time.Minute + time.Second)},
			{Id: "d1" + hex[2:], PodSandboxId: "a1" + hex[2:], Metadata: &runtime.ContainerMetadata{Name: "side"}, State: runtime.ContainerState_CONTAINER_CREATED,
				Image: &runtime.ImageSpec{Image: "r.example/side:1"}, CreatedAt: ago(time.Hour + time.Minute)},
		},
		images: []*runtime.Image{
			{Id: "sha256:" + hex, RepoTags: []string{"r.example:5000/app:1", "r.example:5000/app:2"}, Size: 12_345_678},
			{Id: "sha256:ff" + hex[2:], RepoDigests: []string{"a.example/x@sha256:" + hex}, Size: 999, Pinned: true},
		},
		exec:       &runtime.ExecSyncResponse{},
		conditions: []*runtime.RuntimeCondition{{Type: "RuntimeReady", Status: true}, {Type: "NetworkReady", Status: true}},
	}
}
