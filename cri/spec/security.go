package spec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/cri/model"
)

// maxProfile bounds a seccomp profile, in bytes.
const maxProfile = 1 << 20

// security sets capabilities, seccomp, AppArmor, SELinux and the paths that are hidden or read-only. A privileged container
// has none of the restrictions (CRI LinuxContainerSecurityContext.privileged).
func (b *Builder) security(in Input, sp *specs.Spec) (err error) {
	sec := in.Config.Security
	sp.Process.Capabilities = b.capabilities(sec)
	if err := b.seLinux(in, sp); err != nil {
		return err
	}
	if sec.Privileged {
		return nil
	}
	sp.Linux.MaskedPaths, sp.Linux.ReadonlyPaths = slices.Clone(sec.MaskedPaths), slices.Clone(sec.ReadonlyPaths)
	if sp.Linux.Seccomp, err = b.seccomp(sec.Seccomp, sp); err != nil {
		return err
	}
	sp.Process.ApparmorProfile, err = b.appArmor(sec.AppArmor)
	return err
}

// defaultCapabilities are what containers of all runtimes have unless they ask otherwise.
func defaultCapabilities() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
		"CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
	}
}

// capabilities starts from the default set: ALL adds or drops everything first, single names come after it. Nothing is
// inheritable, for the files of an image would then pass it on (CVE-2022-24769), but what is ambient, where the kernel
// demands it (capabilities(7)). The kernel takes the sets from a user that is not root, unless they are ambient.
func (b *Builder) capabilities(sec model.Security) *specs.LinuxCapabilities {
	set := defaultCapabilities()
	add, drop, ambient := sec.AddCapabilities, sec.DropCapabilities, sec.AddAmbientCapabilities
	if sec.Privileged {
		add, drop = []string{"ALL"}, nil
	}
	if slices.Contains(add, "ALL") {
		set = slices.Clone(b.node.AllCaps)
	}
	if slices.Contains(drop, "ALL") {
		set = nil
	}
	raised := b.expand(ambient)
	for _, c := range slices.Concat(add, raised) {
		if c != "ALL" && !slices.Contains(set, c) {
			set = append(set, c)
		}
	}
	dropped := func(c string) bool { return slices.Contains(drop, c) }
	set, raised = slices.DeleteFunc(set, dropped), slices.DeleteFunc(raised, dropped)
	return &specs.LinuxCapabilities{
		Bounding: set, Permitted: slices.Clone(set), Effective: slices.Clone(set),
		Inheritable: raised, Ambient: slices.Clone(raised),
	}
}

func (b *Builder) expand(names []string) []string {
	if slices.Contains(names, "ALL") {
		return slices.Clone(b.node.AllCaps)
	}
	return slices.Clone(names)
}

// seccomp gives the filter of a profile; nil, which CRI defines as unconfined, is none. The default one depends on the
// capabilities that sp has.
func (b *Builder) seccomp(p *model.Profile, sp *specs.Spec) (*specs.LinuxSeccomp, error) {
	if p == nil || p.Type == model.ProfileUnconfined {
		return nil, nil
	}
	if p.Type == model.ProfileRuntimeDefault {
		return seccomp.DefaultProfile(sp), nil
	}
	file := p.Ref
	if !filepath.IsAbs(file) {
		if b.node.SeccompRoot == "" {
			return nil, fmt.Errorf("seccomp profile %q has a relative name and the node no folder of profiles: %w", p.Ref, errdefs.ErrInvalidArgument)
		}
		file = filepath.Join(b.node.SeccompRoot, file)
	}
	f, err := readProfile(file)
	if err != nil {
		return nil, fmt.Errorf("seccomp profile %s: %w", file, err)
	}
	return f, nil
}

func readProfile(file string) (*specs.LinuxSeccomp, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrFailedPrecondition)
	}
	defer f.Close()
	b, err := readPlain(f, maxProfile)
	if err != nil {
		return nil, err
	}
	var out specs.LinuxSeccomp
	dec := json.NewDecoder(bytes.NewReader(b))
	if err := dec.Decode(&out); err != nil {
		return nil, fmt.Errorf("it is no JSON of a seccomp profile: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if out.DefaultAction == "" {
		return nil, fmt.Errorf("it has no defaultAction: %w", errdefs.ErrInvalidArgument)
	}
	return &out, nil
}

// appArmor gives the profile's name; empty is unconfined. No profile asked for is the default one (CRI apparmor_profile).
func (b *Builder) appArmor(p *model.Profile) (string, error) {
	if p == nil {
		return b.node.DefaultAppArmor, nil
	}
	switch p.Type {
	case model.ProfileUnconfined:
		return "", nil
	case model.ProfileRuntimeDefault:
		if b.node.AppArmor && b.node.DefaultAppArmor == "" {
			return "", fmt.Errorf("the default AppArmor profile is not loaded, install apparmor_parser on the node: %w", errdefs.ErrFailedPrecondition)
		}
		return b.node.DefaultAppArmor, nil
	}
	if !b.node.AppArmor {
		return "", fmt.Errorf("AppArmor profile %q asked for, but the node has no AppArmor: %w", p.Ref, errdefs.ErrFailedPrecondition)
	}
	loaded, err := b.host.appArmorLoaded(p.Ref)
	if err != nil {
		return "", err
	}
	if !loaded {
		return "", fmt.Errorf("AppArmor profile %q is not loaded on the node: %w", p.Ref, errdefs.ErrFailedPrecondition)
	}
	return p.Ref, nil
}
