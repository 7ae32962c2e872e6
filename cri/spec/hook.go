package spec

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// poststopSuffix tells the cgroup of a container's poststop hooks from the container's own.
const poststopSuffix = "-poststop"

// PoststopCgroup gives the path of the cgroup that a container's poststop hooks run in, beside the container's own and in the same
// form, with either driver.
func PoststopCgroup(cgroupsPath string) string { return cgroupsPath + poststopSuffix }

// HookUser resolves a user of a hook (UID, UID:GID, or names of the image) as a container's own user is resolved: names and
// further groups come from the image's files, and the pod's supplemental groups are added. Errors are InvalidArgument.
func (b *Builder) HookUser(in Input, user string) (specs.User, error) {
	sec := &in.Config.Security
	sec.RunAsUser, sec.RunAsUsername, sec.RunAsGroup = nil, "", nil
	in.Image.Config.User = user
	who, err := resolveUser(in)
	if err != nil {
		return specs.User{}, err
	}
	out := specs.User{UID: uint32(who.UID), GID: uint32(who.GID)}
	for _, g := range who.SupplementalGroups {
		out.AdditionalGids = append(out.AdditionalGids, uint32(g))
	}
	return out, nil
}
