package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// KubeletOptions change the kubelet's configuration.
type KubeletOptions struct {
	EventedPLEG bool           // it learns of containers' ends by GetContainerEvents instead of listing every second
	Set         map[string]any // fields of KubeletConfiguration (kubelet.config.k8s.io/v1beta1) in the place of the cluster's
}

// StartKubelet starts the kubelet with the cluster's options of this moment.
func (c *Cluster) StartKubelet(ctx context.Context) error {
	config, err := c.writeKubeletConfig()
	if err != nil {
		return err
	}
	kubeconfig, err := c.kubeconfigFor("kubelet", "system:node:"+c.Node(), []string{"system:nodes"})
	if err != nil {
		return err
	}
	c.kubelet, err = c.run("kubelet", "--config="+config, "--kubeconfig="+kubeconfig, "--root-dir="+c.KubeletDir(),
		"--cert-dir="+filepath.Join(c.Dir, "pki"), "--hostname-override="+c.Node(), "--node-ip="+c.IP.String(), "--v=2")
	if err != nil {
		return err
	}
	k := c.kubelet
	c.undo.Add("end kubelet", k.end)
	return nil
}

// StopKubelet ends the kubelet; pods go on.
func (c *Cluster) StopKubelet(ctx context.Context) error { return c.kubelet.end(ctx) }

// RestartKubelet ends the kubelet, starts it with other options and waits until it has said that the node is Ready.
func (c *Cluster) RestartKubelet(ctx context.Context, o KubeletOptions) error {
	if err := c.StopKubelet(ctx); err != nil {
		return err
	}
	c.Kubelet = o
	since := time.Now()
	if err := c.StartKubelet(ctx); err != nil {
		return err
	}
	return c.AwaitReady(ctx, since)
}

// KubeletDir is the kubelet's root folder.
func (c *Cluster) KubeletDir() string { return filepath.Join(c.Dir, "kubelet") }

// KubeletLog is the file of what the kubelet says, over all starts.
func (c *Cluster) KubeletLog() string { return filepath.Join(c.Dir, "kubelet.log") }

// StaticPods is the folder whose manifests the kubelet runs without being asked by the API server.
func (c *Cluster) StaticPods() string { return filepath.Join(c.Dir, "manifests") }

// writeKubeletConfig writes what differs from the kubelet's own values, and says why.
func (c *Cluster) writeKubeletConfig() (string, error) {
	serving, err := c.authority.issue("system:node:"+c.Node(), []string{"system:nodes"}, []string{c.IP.String(), c.Node()})
	if err != nil {
		return "", err
	}
	resolv := filepath.Join(c.Dir, "resolv.conf")
	if err := os.WriteFile(resolv, nil, 0o644); err != nil {
		return "", err
	}
	if err := os.MkdirAll(c.StaticPods(), 0o755); err != nil {
		return "", err
	}
	thresholds := map[string]string{"memory.available": "50Mi"}
	if c.Disk != "" {
		thresholds["imagefs.available"] = "25%"
	}
	config := map[string]any{
		"kind": "KubeletConfiguration", "apiVersion": "kubelet.config.k8s.io/v1beta1",
		"containerRuntimeEndpoint": "unix://" + c.Lab.Socket(),
		"featureGates":             map[string]bool{"EventedPLEG": c.Kubelet.EventedPLEG},
		// Folders, addresses and cgroups of its own.
		"address": c.IP.String(), "healthzPort": 0, "podLogsDir": c.Lab.LogDir(), "staticPodPath": c.StaticPods(), "fileCheckFrequency": "1s",
		"volumePluginDir": filepath.Join(c.Dir, "plugins"), "resolvConf": resolv, "cgroupRoot": c.Lab.CgroupParent(), "cgroupDriver": "cgroupfs",
		"makeIPTablesUtilChains": false,
		"tlsCertFile":            serving.Cert, "tlsPrivateKeyFile": serving.Key,
		"authentication": map[string]any{
			"anonymous": map[string]any{"enabled": false}, "webhook": map[string]any{"enabled": true}, "x509": map[string]any{"clientCAFile": c.authority.CA()},
		},
		"authorization": map[string]any{"mode": "Webhook"},
		// The machine may have cgroup v1, swap, and no right to lower an OOM score.
		"failCgroupV1": false, "failSwapOn": false, "oomScoreAdj": 0, "enforceNodeAllocatable": []string{},
		// Tests go back and forth between images faster than people do.
		"crashLoopBackOff":          map[string]any{"maxContainerRestartPeriod": "1s"},
		"registryPullQPS":           0,
		"serializeImagePulls":       false,
		"nodeStatusUpdateFrequency": "1s", "nodeStatusReportFrequency": "1s",
		"eventRecordQPS": 0,
		"kubeAPIQPS":     1000, "kubeAPIBurst": 1000,
		// Images go when the runtime's disk is full; how full the machine's is must not matter here.
		"imageMinimumGCAge": "1s", "imageGCHighThresholdPercent": 100, "evictionHard": thresholds,
		"evictionPressureTransitionPeriod": "1s",
		"shutdownGracePeriod":              "0s",
	}
	maps.Copy(config, c.Kubelet.Set)
	b, err := json.MarshalIndent(config, "", "  ")
	if err != nil {
		return "", err
	}
	path := filepath.Join(c.Dir, "kubelet.json")
	return path, os.WriteFile(path, b, 0o600)
}

// AwaitReady waits until the node is Ready, as said by its kubelet after since.
func (c *Cluster) AwaitReady(ctx context.Context, since time.Time) error {
	_, err := Await(ctx, c.Client.CoreV1().RESTClient(), "nodes", "", c.Node(), func(n *corev1.Node) (bool, error) {
		select {
		case <-c.kubelet.gone:
			return false, fmt.Errorf("the kubelet has ended: %s", c.kubelet.cmd.ProcessState)
		default:
		}
		for _, condition := range n.Status.Conditions {
			if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue && !condition.LastHeartbeatTime.Time.Before(since.Truncate(time.Second)) {
				return len(n.Spec.Taints) == 0, nil
			}
		}
		return false, nil
	})
	if err != nil {
		return fmt.Errorf("wait until node %s is Ready: %w", c.Node(), err)
	}
	return nil
}
