package integration

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// kruise makes the calls of OpenKruise's node daemon (openkruise/kruise, pkg/daemon), in its order and with its arguments. It
// is no part of the test what the controllers above make of the answers, but what they compare is.
type kruise struct {
	t       testing.TB
	runtime runtime.RuntimeServiceClient
	images  runtime.ImageServiceClient
	name    string // of the runtime
}

// startKruise probes the runtime as criruntime/factory.go does: the first error, and the runtime is skipped.
func startKruise(t testing.TB, n *harness.Node) *kruise {
	t.Helper()
	k := &kruise{t: t, runtime: n.Daemon.Runtime, images: n.Daemon.Images}
	ctx := harness.Context(t)
	if _, err := k.images.ImageFsInfo(ctx, &runtime.ImageFsInfoRequest{}); err != nil {
		t.Fatalf("which version of the image service: %v", err)
	}
	if _, err := k.images.ListImages(ctx, &runtime.ListImagesRequest{}); err != nil {
		t.Fatalf("ListImages: %v", err)
	}
	// The client library asks without a version first, the daemon then with its own.
	for _, version := range []string{"", "0.1.0"} {
		v, err := k.runtime.Version(ctx, &runtime.VersionRequest{Version: version})
		if err != nil {
			t.Fatalf("Version %q: %v", version, err)
		}
		if v.Version == "" || v.RuntimeName == "" || v.RuntimeVersion == "" || v.RuntimeApiVersion == "" {
			t.Fatalf("Version %q is not complete: %v", version, v)
		}
		if k.name != "" && k.name != v.RuntimeName {
			t.Errorf("the runtime is called %q and %q", k.name, v.RuntimeName)
		}
		k.name = v.RuntimeName
	}
	return k
}

// kruiseStatus is what kuberuntime's toKubeContainerStatus keeps.
type kruiseStatus struct {
	id, name, image, imageID string
	hash                     uint64
	restarts                 int
	state                    runtime.ContainerState
	created                  int64
	finished                 int64
}

// podStatus gives the pod's containers, newest first.
func (k *kruise) podStatus(uid string) []kruiseStatus {
	k.t.Helper()
	ctx := harness.Context(k.t)
	list, err := k.runtime.ListContainers(ctx, &runtime.ListContainersRequest{Filter: &runtime.ContainerFilter{
		LabelSelector: map[string]string{"io.kubernetes.pod.uid": uid},
	}})
	if err != nil {
		k.t.Fatalf("ListContainers: %v", err)
	}
	var all []kruiseStatus
	for _, c := range list.Containers {
		r, err := k.runtime.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: c.Id})
		if err != nil {
			k.t.Fatalf("ContainerStatus: %v", err)
		}
		s := r.Status
		hash, err := strconv.ParseUint(s.Annotations["io.kubernetes.container.hash"], 16, 64)
		if err != nil {
			k.t.Errorf("hash annotation of %s: %v", s.Id, err)
		}
		restarts, err := strconv.Atoi(s.Annotations["io.kubernetes.container.restartCount"])
		if err != nil {
			k.t.Errorf("restart annotation of %s: %v", s.Id, err)
		}
		all = append(all, kruiseStatus{
			k.name + "://" + s.Id, s.Labels["io.kubernetes.container.name"], s.Image.GetImage(), s.ImageRef, hash, restarts, s.State, s.CreatedAt, s.FinishedAt,
		})
	}
	slices.SortFunc(all, func(a, b kruiseStatus) int { return int(b.created - a.created) })
	return all
}

func (k *kruise) newest(uid, name string) kruiseStatus {
	k.t.Helper()
	all := k.podStatus(uid)
	i := slices.IndexFunc(all, func(s kruiseStatus) bool { return s.name == name })
	if i < 0 {
		k.t.Fatalf("container %s is not among %v", name, all)
	}
	return all[i]
}

func (k *kruise) exec(id string, timeout int64, argv ...string) *runtime.ExecSyncResponse {
	k.t.Helper()
	r, err := k.runtime.ExecSync(harness.Context(k.t), &runtime.ExecSyncRequest{ContainerId: strings.TrimPrefix(id, k.name+"://"), Cmd: argv, Timeout: timeout})
	if err != nil {
		k.t.Fatalf("ExecSync %q: %v", argv, err)
	}
	return r
}

// env is the environment as containermeta reads it.
func (k *kruise) env(id string) map[string]string {
	k.t.Helper()
	vars := map[string]string{}
	for line := range strings.Lines(strings.TrimSpace(string(k.exec(id, 3, "env").Stdout))) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			vars[key] = value
		}
	}
	return vars
}

// stop is what a ContainerRecreateRequest does: the preStop hook, then StopContainer.
func (k *kruise) stop(id string, preStop ...string) {
	k.t.Helper()
	if len(preStop) > 0 {
		k.exec(id, 30, preStop...)
	}
	_, err := k.runtime.StopContainer(harness.Context(k.t), &runtime.StopContainerRequest{ContainerId: strings.TrimPrefix(id, k.name+"://"), Timeout: 2})
	if err != nil {
		k.t.Fatalf("StopContainer: %v", err)
	}
}

// pull is imageruntime's pullImageV1: a sandbox configuration without metadata, credentials by name and password.
func (k *kruise) pull(ctx context.Context, image string, auth *runtime.AuthConfig, sandbox *runtime.PodSandboxConfig) error {
	_, err := k.images.PullImage(ctx, &runtime.PullImageRequest{
		Image: &runtime.ImageSpec{Image: image, Annotations: map[string]string{}}, Auth: auth, SandboxConfig: sandbox,
	})
	return err
}

// asKubelet makes the configuration that a kubelet gives to attempt of a container, of which kruise reads labels and annotations.
func asKubelet(p *harness.Pod, image, hash string, attempt uint32) func(*runtime.ContainerConfig) {
	return func(c *runtime.ContainerConfig) {
		m := p.Config.Metadata
		c.Metadata.Attempt = attempt
		c.Image = &runtime.ImageSpec{Image: image, UserSpecifiedImage: image}
		c.Labels = map[string]string{
			"io.kubernetes.pod.name": m.Name, "io.kubernetes.pod.namespace": m.Namespace, "io.kubernetes.pod.uid": m.Uid, "io.kubernetes.container.name": c.Metadata.Name,
		}
		c.Annotations = map[string]string{"io.kubernetes.container.hash": hash, "io.kubernetes.container.restartCount": fmt.Sprint(attempt)}
		c.Envs = []*runtime.KeyValue{{Key: "FROM_METADATA", Value: []byte("value " + hash)}}
		c.LogPath = fmt.Sprintf("%s/%d.log", c.Metadata.Name, attempt)
	}
}

// has says whether ListImages shows the image as the daemon's list reads it: by repository tag, with ID, digest and size.
func (k *kruise) has(tag string) bool {
	k.t.Helper()
	r, err := k.images.ListImages(harness.Context(k.t), &runtime.ListImagesRequest{})
	if err != nil {
		k.t.Fatal(err)
	}
	return slices.ContainsFunc(r.Images, func(i *runtime.Image) bool {
		return slices.Contains(i.RepoTags, tag) && i.Id != "" && len(i.RepoDigests) > 0 && i.Size > 0
	})
}
