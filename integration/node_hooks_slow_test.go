package integration

import (
	"os"
	"path/filepath"
	goruntime "runtime"
	"sync"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// A slow hook of the node holds up the containers that it is for, however many, and nobody else's starts, execs and hooks.
func TestASlowNodeHookHoldsUpNobodyElse(t *testing.T) {
	h := withHooks(t)
	dir := openDir(t)
	slow := filepath.Join(filepath.Dir(h.dir), "slow.sh")
	h.write(t, slow, 0o755, "#!/bin/sh\n: > "+dir+"/begun.$$; while [ ! -e "+filepath.Join(dir, "go")+" ]; do sleep 0.05; done\n")
	h.declare(t, "50-slow.json", timed(declaration(`{"annotations": {"^slow$": "."}}`, slow, nil, "createRuntime"), 25))
	bystander := h.RunPod(t, hooks(t, poststopKey, shell("clean", "touch /witness/cleaned"))).Run(t, "app", witness(dir), harness.Sh("exec sleep 1000"))
	p := h.RunPod(t, annotated("slow", "yes"))
	var starts sync.WaitGroup
	many := max(4, 4*goruntime.NumCPU()) // as many as may be made at a time
	for i := range many {
		c := p.Create(t, "app"+string(rune('a'+i)))
		starts.Go(func() {
			if err := tryStart(t, c); err != nil {
				t.Error(err)
			}
		})
	}
	harness.Eventually(t, "all hooks run", func() bool {
		begun, _ := filepath.Glob(filepath.Join(dir, "begun.*"))
		return len(begun) == many
	})
	bystander.Exec(t, "true")
	h.RunPod(t).Run(t, "next").Stop(t, 0)
	bystander.Stop(t, 0)
	if _, err := os.Stat(filepath.Join(dir, "cleaned")); err != nil {
		t.Errorf("the poststop hook: %v", err)
	}
	for _, c := range listContainers(t, h.Node, &runtime.ContainerFilter{PodSandboxId: p.ID}) {
		if c.State != runtime.ContainerState_CONTAINER_CREATED {
			t.Errorf("%s did not wait: %v", c.Metadata.Name, c.State)
		}
	}
	touch(t, filepath.Join(dir, "go"))
	starts.Wait()
}
