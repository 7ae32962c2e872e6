package spec

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	selinux "github.com/opencontainers/selinux/go-selinux"
	"github.com/opencontainers/selinux/go-selinux/label"

	"github.com/cri-pouch/cri-pouch/cri/model"
)

// seLinux labels the process and the mounts, where the node has SELinux. A privileged container's process keeps the
// runtime's label.
func (b *Builder) seLinux(in Input, sp *specs.Spec) error {
	if !b.node.SELinux {
		return nil
	}
	if in.Config.Security.Privileged {
		sp.Linux.MountLabel = selinux.PrivContainerMountLabel()
		return nil
	}
	process, file, err := labels(in)
	if err != nil {
		return err
	}
	sp.Process.SelinuxLabel, sp.Linux.MountLabel = process, file
	return labelPodFiles(in)
}

// labelPodFiles gives the pod's own files, which we made, to the pod; a container with a level of its own changes nothing in
// that.
func labelPodFiles(in Input) error {
	in.Config.Security.SELinux = nil
	_, file, err := labels(in)
	if err != nil {
		return err
	}
	for _, p := range []string{in.Files.Hosts, in.Files.ResolvConf, in.Files.Hostname, in.Shm} {
		if p == "" {
			continue
		}
		if err := selinux.SetFileLabel(p, file); err != nil {
			return fmt.Errorf("label %s of the pod: %w", p, err)
		}
	}
	return nil
}

// labels gives the labels of process and files: the policy's for containers, with the parts that the container or else its
// pod asks for.
func labels(in Input) (process, file string, err error) {
	want := in.Config.Security.SELinux
	if want == nil {
		want = in.Sandbox.SELinux
	}
	if process, file, err = label.InitLabels(nil); err != nil {
		return "", "", fmt.Errorf("SELinux labels of the policy: %w", err)
	}
	selinux.ReleaseLabel(process) // its level is replaced by one that all containers of the pod have
	return fitLabels(process, file, want, in.SandboxID)
}

// fitLabels puts the asked parts into the labels; a level not asked for is the pod's own.
func fitLabels(process, file string, want *model.SELinux, sandboxID string) (string, string, error) {
	p, err := selinux.NewContext(process)
	if err != nil {
		return "", "", fmt.Errorf("SELinux policy's label %q for containers: %w", process, err)
	}
	f, err := selinux.NewContext(file)
	if err != nil {
		return "", "", fmt.Errorf("SELinux policy's label %q for files of containers: %w", file, err)
	}
	p["level"] = podLevel(sandboxID)
	if want != nil {
		for part, v := range map[string]string{"user": want.User, "role": want.Role, "type": want.Type, "level": want.Level} {
			if v != "" {
				p[part] = v
			}
		}
	}
	f["level"] = p["level"]
	return p.Get(), f.Get(), nil
}

// podLevel gives a pod its level: two categories derived from its ID, so that a restart of the daemon knows it again. Two
// pods share one by chance of one to 523,776.
func podLevel(sandboxID string) string {
	sum := sha256.Sum256([]byte(sandboxID))
	n := binary.BigEndian.Uint64(sum[:8])
	a := n % 1024
	c := (a + 1 + n/1024%1023) % 1024
	return fmt.Sprintf("s0:c%d,c%d", min(a, c), max(a, c))
}

// relabel gives a host path to the pod, because the client asked for it (CVE-2021-43816: never unasked). The library refuses
// the node's own folders such as / and /usr.
func (b *Builder) relabel(in Input, source string) error {
	_, file, err := labels(in)
	if err != nil {
		return err
	}
	if err := label.Relabel(source, file, false); err != nil {
		return fmt.Errorf("relabel to %s: %w: %w", file, err, errdefs.ErrFailedPrecondition)
	}
	return nil
}
