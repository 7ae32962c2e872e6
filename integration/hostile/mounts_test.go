package hostile

import (
	"context"
	"testing"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/fusefs"
	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// The host path of a volume is on a file system that answers nobody: a FUSE server that its pod's author runs, or a server of files
// that is gone.
func TestAHostPathThatNeverAnswers(t *testing.T) {
	for what, answersFirst := range map[string]bool{"from the beginning": false, "from the start on": true} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			f, err := fusefs.Mount(dir, fusefs.Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := f.Close(); err != nil {
					t.Error(err)
				}
			})
			n := start(t)
			b := newBystander(t, n)
			volume := func(c *runtime.ContainerConfig) {
				c.Mounts = append(c.Mounts, &runtime.Mount{HostPath: dir + "/" + fusefs.Folder, ContainerPath: "/v"})
			}
			var pods []*harness.Pod
			var victims []*harness.Container
			for i := range crowd {
				pods = append(pods, n.RunPod(t))
				if answersFirst {
					victims = append(victims, pods[i].Create(t, "victim", volume))
				}
			}
			f.HangOn()
			answers := make([]error, crowd)
			done := held(crowd, func(i int) {
				ctx, cancel := context.WithTimeout(context.Background(), harness.Patience(4*time.Minute))
				defer cancel()
				if answersFirst {
					_, answers[i] = n.Daemon.Runtime.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: victims[i].ID})
					return
				}
				_, answers[i] = pods[i].TryCreate(ctx, pods[i].ContainerConfig("victim", volume))
			})
			for range 4 {
				b.check("while nothing answers")
			}
			if err := f.Abort(); err != nil {
				t.Fatal(err)
			}
			<-done
			for i, err := range answers {
				if err == nil {
					t.Errorf("container %d is mounted what does not answer", i)
				}
			}
			b.check("after the file system's end")
		})
	}
}
