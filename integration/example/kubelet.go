package example

import (
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Node makes of an example's pod what the kubelet makes of it for a runtime.
type Node struct {
	Example      *Example
	UID          string // of the pod
	Dir          string // of the pod's volumes
	LogDir       string // below which pods have their logs
	CgroupParent string
}

// Sandbox gives the pod's sandbox.
func (n *Node) Sandbox() *runtime.PodSandboxConfig {
	pod := n.Example.Pod
	namespace := pod.Metadata.Namespace
	if namespace == "" {
		namespace = "default"
	}
	labels := map[string]string{"io.kubernetes.pod.name": pod.Metadata.Name, "io.kubernetes.pod.namespace": namespace, "io.kubernetes.pod.uid": n.UID}
	for k, v := range pod.Metadata.Labels {
		labels[k] = v
	}
	return &runtime.PodSandboxConfig{
		Metadata:     &runtime.PodSandboxMetadata{Name: pod.Metadata.Name, Namespace: namespace, Uid: n.UID},
		Hostname:     pod.Metadata.Name,
		LogDirectory: filepath.Join(n.LogDir, strings.Join([]string{namespace, pod.Metadata.Name, n.UID}, "_")),
		Labels:       labels,
		Annotations:  pod.Metadata.Annotations,
		Linux: &runtime.LinuxPodSandboxConfig{
			CgroupParent:    n.CgroupParent,
			SecurityContext: &runtime.LinuxSandboxSecurityContext{NamespaceOptions: namespaces(), Seccomp: n.seccomp()},
		},
	}
}

// Container gives an attempt of the container, and makes the folder of its log.
func (n *Node) Container(sandbox *runtime.PodSandboxConfig, c Container, attempt uint32) (*runtime.ContainerConfig, error) {
	hash := fnv.New32a()
	hash.Write([]byte(c.Name + c.Image))
	config := &runtime.ContainerConfig{
		Metadata:    &runtime.ContainerMetadata{Name: c.Name, Attempt: attempt},
		Image:       &runtime.ImageSpec{Image: c.Image, UserSpecifiedImage: c.Image},
		Command:     c.Command,
		Args:        c.Args,
		LogPath:     filepath.Join(c.Name, fmt.Sprintf("%d.log", attempt)),
		Labels:      map[string]string{"io.kubernetes.container.name": c.Name},
		Annotations: map[string]string{"io.kubernetes.container.hash": strconv.FormatUint(uint64(hash.Sum32()), 16)},
		Linux: &runtime.LinuxContainerConfig{
			Resources: &runtime.LinuxContainerResources{OomScoreAdj: 1000},
			SecurityContext: &runtime.LinuxContainerSecurityContext{
				NamespaceOptions: namespaces(), Seccomp: n.seccomp(),
				MaskedPaths: []string{"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
					"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"},
				ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
			},
		},
	}
	for _, e := range c.Env {
		config.Envs = append(config.Envs, &runtime.KeyValue{Key: e.Name, Value: []byte(e.Value)})
	}
	for resource, limit := range c.Resources.Limits {
		mebibytes, err := strconv.ParseInt(strings.TrimSuffix(limit, "Mi"), 10, 64)
		if resource != "memory" || err != nil {
			return nil, fmt.Errorf("container %s: limit %s: %s is not memory in Mi", c.Name, resource, limit)
		}
		config.Linux.Resources.MemoryLimitInBytes = mebibytes << 20
	}
	for _, m := range c.VolumeMounts {
		v := n.Example.Pod.Spec.Volumes[slices.IndexFunc(n.Example.Pod.Spec.Volumes, func(v Volume) bool { return v.Name == m.Name })]
		config.Mounts = append(config.Mounts, &runtime.Mount{
			HostPath: n.Volume(m.Name), ContainerPath: m.MountPath, Readonly: m.ReadOnly || v.ConfigMap != nil,
		})
	}
	return config, os.MkdirAll(filepath.Join(sandbox.LogDirectory, c.Name), 0o755)
}

// Volume is the folder of the pod's volume of that name.
func (n *Node) Volume(name string) string { return filepath.Join(n.Dir, name) }

// MakeVolumes makes the folders of the pod's volumes, open to all users as the kubelet's are, with links to a folder that
// an update would exchange where a ConfigMap is in them.
func (n *Node) MakeVolumes() error {
	for _, v := range n.Example.Pod.Spec.Volumes {
		dir := n.Volume(v.Name)
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return err
		}
		if err := os.Chmod(dir, 0o777); err != nil {
			return err
		}
		if v.ConfigMap == nil {
			continue
		}
		if err := writeConfigMap(dir, n.Example.ConfigMaps[v.ConfigMap.Name].Data); err != nil {
			return fmt.Errorf("volume %s: %w", v.Name, err)
		}
	}
	return nil
}

func writeConfigMap(dir string, data map[string]string) error {
	const version = "..2026_01_01_00_00_00.1"
	if err := os.Mkdir(filepath.Join(dir, version), 0o755); err != nil {
		return err
	}
	if err := os.Symlink(version, filepath.Join(dir, "..data")); err != nil {
		return err
	}
	for key, text := range data {
		if err := os.WriteFile(filepath.Join(dir, version, key), []byte(text), 0o644); err != nil {
			return err
		}
		if err := os.Symlink(filepath.Join("..data", key), filepath.Join(dir, key)); err != nil {
			return err
		}
	}
	return nil
}

// seccomp is the profile that the pod asks for; the kubelet's default is none.
func (n *Node) seccomp() *runtime.SecurityProfile {
	if n.Example.Pod.Spec.SecurityContext.SeccompProfile.Type == "RuntimeDefault" {
		return &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_RuntimeDefault}
	}
	return &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_Unconfined}
}

func namespaces() *runtime.NamespaceOption {
	return &runtime.NamespaceOption{Pid: runtime.NamespaceMode_CONTAINER}
}
