package hostile

import (
	"strconv"
	"sync/atomic"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// A program that asks to die with its parent lives as long as the shim does: threads of it come and go with the containers of
// others.
func TestAParentDeathSignalComesFromNobodysLaunch(t *testing.T) {
	n := start(t)
	p := n.RunPod(t)
	var children []*harness.Container
	for i := range 8 {
		children = append(children, attack(t, p, "child"+strconv.Itoa(i), []string{"orphan"}))
	}
	others := n.RunPod(t)
	var made atomic.Int64
	<-held(4, func(int) {
		for range 25 {
			name := "c" + strconv.FormatInt(made.Add(1), 10)
			id, err := others.TryCreate(t.Context(), others.ContainerConfig(name, harness.Sh("echo up")))
			if err == nil {
				_, err = n.Daemon.Runtime.StartContainer(t.Context(), &runtime.StartContainerRequest{ContainerId: id})
			}
			if err != nil {
				t.Errorf("container %s: %v", name, err)
			}
		}
	})
	for _, c := range children {
		goesOn(t, c)
	}
}
