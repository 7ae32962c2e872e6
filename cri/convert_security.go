package cri

import (
	"math"
	"path"
	"slices"
	"strings"

	"github.com/moby/sys/capability"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/cri/model"
)

// containerSecurity converts LinuxContainerSecurityContext; nil is all defaults.
func containerSecurity(field string, s *runtime.LinuxContainerSecurityContext) (model.Security, error) {
	out := model.Security{
		Privileged: s.GetPrivileged(), ReadonlyRootfs: s.GetReadonlyRootfs(), NoNewPrivs: s.GetNoNewPrivs(),
		RunAsUsername: s.GetRunAsUsername(),
	}
	var err error
	if out.Namespaces, err = namespaces(field+".namespace_options", s.GetNamespaceOptions(), true); err != nil {
		return out, err
	}
	if out.SELinux, err = seLinux(field+".selinux_options", s.GetSelinuxOptions()); err != nil {
		return out, err
	}
	if err = securityCapabilities(field+".capabilities", s.GetCapabilities(), &out); err != nil {
		return out, err
	}
	if err = securityUser(field, s, &out); err != nil {
		return out, err
	}
	if out.MaskedPaths, err = containerPaths(field+".masked_paths", s.GetMaskedPaths()); err != nil {
		return out, err
	}
	if out.ReadonlyPaths, err = containerPaths(field+".readonly_paths", s.GetReadonlyPaths()); err != nil {
		return out, err
	}
	//lint:ignore SA1019 clients of older CRI versions still send it
	if out.Seccomp, err = profile(field+".seccomp", s.GetSeccomp(), s.GetSeccompProfilePath(), true); err != nil {
		return out, err
	}
	//lint:ignore SA1019 clients of older CRI versions still send it
	out.AppArmor, err = profile(field+".apparmor", s.GetApparmor(), s.GetApparmorProfile(), false)
	return out, err
}

func securityUser(field string, s *runtime.LinuxContainerSecurityContext, out *model.Security) (err error) {
	if out.RunAsUser, err = numericID(field+".run_as_user", s.GetRunAsUser()); err != nil {
		return err
	}
	if out.RunAsGroup, err = numericID(field+".run_as_group", s.GetRunAsGroup()); err != nil {
		return err
	}
	if out.RunAsUser != nil && out.RunAsUsername != "" {
		return invalid(field+".run_as_username", "is given beside run_as_user, give one of them")
	}
	if out.RunAsGroup != nil && out.RunAsUser == nil && out.RunAsUsername == "" {
		return invalid(field+".run_as_group", "is given without run_as_user or run_as_username")
	}
	if err = checkText(field+".run_as_username", out.RunAsUsername, maxName); err != nil {
		return err
	}
	if strings.ContainsAny(out.RunAsUsername, ":/") {
		return invalid(field+".run_as_username", "%q is not a user's name", out.RunAsUsername)
	}
	if out.SupplementalGroups, err = groups(field+".supplemental_groups", s.GetSupplementalGroups()); err != nil {
		return err
	}
	out.StrictGroups, err = strictGroups(field+".supplemental_groups_policy", s.GetSupplementalGroupsPolicy())
	return err
}

// numericID converts a user or group number. The highest 32-bit number is none: the kernel reads it as "leave unchanged".
func numericID(field string, v *runtime.Int64Value) (*int64, error) {
	if v == nil {
		return nil, nil
	}
	n := v.GetValue()
	if n < 0 || n >= math.MaxUint32 {
		return nil, invalid(field, "%d is not between 0 and %d", n, uint32(math.MaxUint32-1))
	}
	return &n, nil
}

func groups(field string, in []int64) ([]int64, error) {
	if err := checkCount(field, len(in)); err != nil {
		return nil, err
	}
	for _, g := range in {
		if _, err := numericID(field, &runtime.Int64Value{Value: g}); err != nil {
			return nil, err
		}
	}
	return slices.Clone(in), nil
}

func strictGroups(field string, p runtime.SupplementalGroupsPolicy) (bool, error) {
	switch p {
	case runtime.SupplementalGroupsPolicy_Merge:
		return false, nil
	case runtime.SupplementalGroupsPolicy_Strict:
		return true, nil
	}
	return false, invalid(field, "unknown policy %d", p)
}

func securityCapabilities(field string, c *runtime.Capability, out *model.Security) (err error) {
	if out.AddCapabilities, err = capabilities(field+".add_capabilities", c.GetAddCapabilities()); err != nil {
		return err
	}
	if out.DropCapabilities, err = capabilities(field+".drop_capabilities", c.GetDropCapabilities()); err != nil {
		return err
	}
	out.AddAmbientCapabilities, err = capabilities(field+".add_ambient_capabilities", c.GetAddAmbientCapabilities())
	return err
}

// capabilities gives the names in the kernel's form (CAP_NET_RAW), or ALL. The client may leave the prefix out and write
// small letters.
func capabilities(field string, in []string) ([]string, error) {
	if err := checkCount(field, len(in)); err != nil {
		return nil, err
	}
	var out []string
	for _, name := range in {
		short := strings.TrimPrefix(strings.ToUpper(name), "CAP_")
		switch {
		case strings.ToUpper(name) == "ALL":
			out = append(out, "ALL")
		case slices.ContainsFunc(capability.ListKnown(), func(c capability.Cap) bool { return strings.EqualFold(c.String(), short) }):
			out = append(out, "CAP_"+short)
		default:
			return nil, invalid(field, "unknown capability %q", name)
		}
	}
	return out, nil
}

func seLinux(field string, o *runtime.SELinuxOption) (*model.SELinux, error) {
	if o == nil {
		return nil, nil
	}
	for name, v := range map[string]string{
		".user": o.GetUser(), ".role": o.GetRole(), ".type": o.GetType(), ".level": o.GetLevel(),
	} {
		if err := checkText(field+name, v, maxName); err != nil {
			return nil, err
		}
		if strings.Contains(v, ":") && name != ".level" {
			return nil, invalid(field+name, "%q has a ':', which separates the parts of a label", v)
		}
	}
	return &model.SELinux{User: o.GetUser(), Role: o.GetRole(), Type: o.GetType(), Level: o.GetLevel()}, nil
}

// profile converts a SecurityProfile, or where that is nil the deprecated string before it; nil where neither is given.
// isPath says that a localhost reference is a file (seccomp), else it is a name (AppArmor).
func profile(field string, p *runtime.SecurityProfile, deprecated string, isPath bool) (*model.Profile, error) {
	out := &model.Profile{}
	if p == nil {
		local, isLocal := strings.CutPrefix(deprecated, "localhost/")
		switch {
		case deprecated == "":
			return nil, nil
		case deprecated == "runtime/default" || deprecated == "docker/default":
			out.Type = model.ProfileRuntimeDefault
		case deprecated == "unconfined":
			out.Type = model.ProfileUnconfined
		case isLocal:
			out.Type, out.Ref = model.ProfileLocalhost, local
		default:
			return nil, invalid(field, "unknown profile %q", deprecated)
		}
	} else {
		switch p.GetProfileType() {
		case runtime.SecurityProfile_RuntimeDefault:
			out.Type = model.ProfileRuntimeDefault
		case runtime.SecurityProfile_Unconfined:
			out.Type = model.ProfileUnconfined
		case runtime.SecurityProfile_Localhost:
			out.Type = model.ProfileLocalhost
		default:
			return nil, invalid(field+".profile_type", "unknown type %d", p.GetProfileType())
		}
		out.Ref = p.GetLocalhostRef()
	}
	return out, checkProfile(field+".localhost_ref", out, isPath)
}

func checkProfile(field string, p *model.Profile, isPath bool) error {
	if p.Type != model.ProfileLocalhost {
		if p.Ref != "" {
			return invalid(field, "is given, but the profile's type is %s", p.Type)
		}
		return nil
	}
	if p.Ref == "" {
		return invalid(field, "is missing for a profile of type Localhost")
	}
	if err := checkPath(field, p.Ref); err != nil {
		return err
	}
	if !isPath {
		if p.Ref == "unconfined" {
			return invalid(field, "\"unconfined\" is no profile, ask for type Unconfined")
		}
		return nil
	}
	if slices.Contains(strings.Split(p.Ref, "/"), "..") {
		return invalid(field, "%q has a '..'", p.Ref)
	}
	p.Ref = path.Clean(p.Ref)
	return nil
}

// userToCRI converts the identity of a container's first process, for statuses.
func userToCRI(u model.User) *runtime.ContainerUser {
	return &runtime.ContainerUser{Linux: &runtime.LinuxContainerUser{
		Uid: u.UID, Gid: u.GID, SupplementalGroups: slices.Clone(u.SupplementalGroups),
	}}
}
