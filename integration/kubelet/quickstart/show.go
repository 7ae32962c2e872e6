package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cri-pouch/cri-pouch/integration/kubelet/cluster"
	"github.com/cri-pouch/cri-pouch/integration/stage"
)

// manifest is the pod: web serves its image's /version and writes to a volume, agent sleeps beside it.
const manifest = `apiVersion: v1
kind: Pod
metadata: {name: shop}
spec:
  terminationGracePeriodSeconds: 2
  volumes: [{name: data}]
  containers:
  - name: web
    image: %s
    command: ["sh", "-c", "cat /version >> /data/note; trap 'exit 0' TERM; httpd -f -p 8080 -h / & wait"]
    readinessProbe: {httpGet: {path: /version, port: 8080}, periodSeconds: 1}
    volumeMounts: [{name: data, mountPath: /data}]
  - name: agent
    image: %s
    command: ["sleep", "infinity"]
`

// show is the cluster's pod and what happens to it.
type show struct{ c *cluster.Cluster }

// kubectl runs kubectl, with stdin where there is one, and gives what it prints; commands are shown.
func (s *show) kubectl(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(s.c.Binaries, "kubectl"), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+s.c.Kubeconfig(), "HOME="+s.c.Dir)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// bringUp lets kubectl make the pod and waits until it is Ready.
func (s *show) bringUp(ctx context.Context) error {
	begin := time.Now()
	text := fmt.Sprintf(manifest, s.c.Lab.Ref("shop:1"), s.c.Lab.Ref("shop:1"))
	// The account that pods run as comes a moment after the API server.
	if _, err := cluster.Await(ctx, s.c.Client.CoreV1().RESTClient(), "serviceaccounts", "default", "default",
		func(*corev1.ServiceAccount) (bool, error) { return true, nil }); err != nil {
		return err
	}
	if _, err := s.kubectl(ctx, text, "apply", "-f", "-"); err != nil {
		return err
	}
	if _, err := s.kubectl(ctx, "", "wait", "--for=condition=Ready", "--timeout=60s", "pod/shop"); err != nil {
		return err
	}
	stage.Step("kubectl apply: pod shop with containers web and agent is Ready after %d ms", time.Since(begin).Milliseconds())
	return nil
}

// edit lets kubectl set web's image and gives the time during which its port did not answer.
func (s *show) edit(ctx context.Context) (time.Duration, error) {
	pod, err := s.pod(ctx)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	outage := make(chan time.Duration, 1)
	go func() { outage <- s.measure(ctx, pod.Status.PodIP) }()
	if _, err := s.kubectl(ctx, "", "set", "image", "pod/shop", "web="+s.c.Lab.Ref("shop:2")); err != nil {
		return 0, err
	}
	stage.Step("kubectl set image pod/shop web=%s", s.c.Lab.Ref("shop:2"))
	gap := <-outage
	if gap == 0 {
		return 0, errors.New("the new version never answered")
	}
	_, err = cluster.Await(ctx, s.c.Client.CoreV1().RESTClient(), "pods", "default", "shop", func(p *corev1.Pod) (bool, error) {
		web := status(p, "web")
		return web.Ready && web.State.Running != nil && web.Image == s.c.Lab.Ref("shop:2"), nil
	})
	return gap, err
}

// measure asks the pod's port every 5 ms and gives the time between the last answer of version one and the first of two.
func (s *show) measure(ctx context.Context, ip string) time.Duration {
	client := http.Client{Timeout: 500 * time.Millisecond, Transport: &http.Transport{DisableKeepAlives: true}}
	last := time.Now()
	for tick := time.NewTicker(5 * time.Millisecond); ctx.Err() == nil; <-tick.C {
		r, err := client.Get("http://" + ip + ":8080/version")
		if err != nil {
			continue
		}
		b, _ := io.ReadAll(r.Body)
		_ = r.Body.Close()
		switch strings.TrimSpace(string(b)) {
		case "one":
			last = time.Now()
		case "two":
			return time.Since(last)
		}
	}
	return 0
}

// takeDown lets kubectl delete the pod, and makes sure that nothing of it runs.
func (s *show) takeDown(ctx context.Context) error {
	if _, err := s.kubectl(ctx, "", "delete", "pod/shop", "--timeout=60s"); err != nil {
		return err
	}
	taken, err := s.c.Lab.Network.Reserved()
	if err != nil {
		return err
	}
	if len(taken) > 0 {
		return fmt.Errorf("left behind: addresses %v", taken)
	}
	return nil
}

func (s *show) pod(ctx context.Context) (*corev1.Pod, error) {
	return s.c.Client.CoreV1().Pods("default").Get(ctx, "shop", metav1.GetOptions{})
}

func status(p *corev1.Pod, container string) corev1.ContainerStatus {
	for _, s := range p.Status.ContainerStatuses {
		if s.Name == container {
			return s
		}
	}
	return corev1.ContainerStatus{}
}
