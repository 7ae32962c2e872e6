package client

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// mostCandidates is how many candidates of an ambiguous name an error lists.
const mostCandidates = 8

// candidate is an object that a reference may mean.
type candidate struct {
	id    string
	names []string // each of which means it
	// group and order pick among several of one name: of those of one group, the one of the highest order is meant.
	group string
	order int64
	text  string // for an error that lists it
}

// pick finds the one candidate that ref means: by its whole ID, else by name, else by a unique beginning of the ID.
func pick(kind, ref string, all []candidate) (int, error) {
	var named, prefixed []int
	for i, c := range all {
		if c.id == ref {
			return i, nil
		}
		if slices.Contains(c.names, ref) {
			named = append(named, i)
		}
		if ref != "" && strings.HasPrefix(c.id, ref) {
			prefixed = append(prefixed, i)
		}
	}
	found := newest(named, all)
	if len(found) == 0 {
		found = prefixed
	}
	switch len(found) {
	case 0:
		return 0, &NotFoundError{Kind: kind, Ref: ref}
	case 1:
		return found[0], nil
	}
	var texts []string
	for _, i := range found[:min(len(found), mostCandidates)] {
		texts = append(texts, all[i].text)
	}
	if more := len(found) - len(texts); more > 0 {
		texts = append(texts, fmt.Sprintf("and %d more", more))
	}
	return 0, fmt.Errorf("%q means more than one %s: %s; give an ID", ref, kind, strings.Join(texts, ", "))
}

// newest leaves, of those in one group, the one of the highest order.
func newest(found []int, all []candidate) []int {
	best := map[string]int{}
	for _, i := range found {
		if b, ok := best[all[i].group]; !ok || all[i].order > all[b].order {
			best[all[i].group] = i
		}
	}
	return slices.DeleteFunc(found, func(i int) bool { return best[all[i].group] != i })
}

// NotFoundError says that nothing is meant by Ref.
type NotFoundError struct{ Kind, Ref string }

func (e *NotFoundError) Error() string {
	list := map[string]string{"container": "cri-pouch ps -a", "pod": "cri-pouch pods", "image": "cri-pouch images"}[e.Kind]
	if list == "" {
		return fmt.Sprintf("no %s %q, `cri-pouch ps -a`, `pods` and `images` list all", e.Kind, e.Ref)
	}
	return fmt.Sprintf("no %s %q, `%s` lists all", e.Kind, e.Ref, list)
}

// Objects are all containers and pods at one moment.
type Objects struct {
	Containers []*runtime.Container
	Pods       []*runtime.PodSandbox
}

// Objects lists everything, newest first.
func (c *Client) Objects(ctx context.Context) (Objects, error) {
	var o Objects
	containers, err := c.Runtime.ListContainers(ctx, &runtime.ListContainersRequest{})
	if err != nil {
		return o, err
	}
	pods, err := c.Runtime.ListPodSandbox(ctx, &runtime.ListPodSandboxRequest{})
	if err != nil {
		return o, err
	}
	o.Containers, o.Pods = containers.GetContainers(), pods.GetItems()
	slices.SortStableFunc(o.Containers, func(a, b *runtime.Container) int { return cmp.Compare(b.GetCreatedAt(), a.GetCreatedAt()) })
	slices.SortStableFunc(o.Pods, func(a, b *runtime.PodSandbox) int { return cmp.Compare(b.GetCreatedAt(), a.GetCreatedAt()) })
	return o, nil
}

// Container looks a container up, as Objects.Container finds it.
func (c *Client) Container(ctx context.Context, ref string) (*runtime.Container, error) {
	o, err := c.Objects(ctx)
	if err != nil {
		return nil, err
	}
	return o.Container(ref)
}

// Pod looks a pod up, as Objects.Pod finds it.
func (c *Client) Pod(ctx context.Context, ref string) (*runtime.PodSandbox, error) {
	o, err := c.Objects(ctx)
	if err != nil {
		return nil, err
	}
	return o.Pod(ref)
}

// Container finds a container by ID, by NAME or POD/NAME (of several attempts in one pod the newest), or by the beginning
// of its ID.
func (o Objects) Container(ref string) (*runtime.Container, error) {
	all := make([]candidate, len(o.Containers))
	for i, c := range o.Containers {
		name, pod := c.GetMetadata().GetName(), o.PodName(c.GetPodSandboxId())
		all[i] = candidate{
			id: c.GetId(), names: []string{name, pod + "/" + name}, group: c.GetPodSandboxId(),
			order: int64(c.GetMetadata().GetAttempt()),
			text:  fmt.Sprintf("%s (%s/%s)", ShortID(c.GetId()), pod, name),
		}
	}
	i, err := pick("container", ref, all)
	if err != nil {
		return nil, err
	}
	return o.Containers[i], nil
}

// Pod finds a pod by ID, by NAME or NAMESPACE/NAME (of several attempts of one pod the newest), or by the beginning of its
// ID.
func (o Objects) Pod(ref string) (*runtime.PodSandbox, error) {
	all := make([]candidate, len(o.Pods))
	for i, p := range o.Pods {
		m := p.GetMetadata()
		all[i] = candidate{
			id: p.GetId(), names: []string{m.GetName(), m.GetNamespace() + "/" + m.GetName()},
			group: m.GetNamespace() + "/" + m.GetName(), order: p.GetCreatedAt(),
			text: fmt.Sprintf("%s (%s/%s)", ShortID(p.GetId()), m.GetNamespace(), m.GetName()),
		}
	}
	i, err := pick("pod", ref, all)
	if err != nil {
		return nil, err
	}
	return o.Pods[i], nil
}

// Either finds what ref means as a container or as a pod. Both come back if it means a container and that one's own pod,
// which `run` gives one name; if it means a container and another pod, the error lists both.
func (o Objects) Either(ref string) (*runtime.Container, *runtime.PodSandbox, error) {
	container, containerErr := o.Container(ref)
	pod, podErr := o.Pod(ref)
	switch {
	case containerErr == nil && podErr == nil:
		if container.GetPodSandboxId() != pod.GetId() {
			return nil, nil, fmt.Errorf("%q means container %s and pod %s; give an ID", ref, ShortID(container.GetId()), ShortID(pod.GetId()))
		}
		return container, pod, nil
	case containerErr == nil:
		return container, nil, nil
	case podErr == nil:
		return nil, pod, nil
	case !IsNotFound(containerErr):
		return nil, nil, containerErr
	case !IsNotFound(podErr):
		return nil, nil, podErr
	}
	return nil, nil, &NotFoundError{Kind: "container or pod", Ref: ref}
}

// In gives the containers of a pod.
func (o Objects) In(podID string) (containers []*runtime.Container) {
	for _, c := range o.Containers {
		if c.GetPodSandboxId() == podID {
			containers = append(containers, c)
		}
	}
	return containers
}

// PodName gives the name of a pod, or its short ID if it is gone.
func (o Objects) PodName(id string) string {
	for _, p := range o.Pods {
		if p.GetId() == id {
			return p.GetMetadata().GetName()
		}
	}
	return ShortID(id)
}

// ShortID gives as much of an ID as is shown: 12 characters, without the name of a digest's algorithm.
func ShortID(id string) string {
	id = strings.TrimPrefix(id, "sha256:")
	return id[:min(len(id), 12)]
}
