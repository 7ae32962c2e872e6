package cri

import (
	"bytes"
	"maps"
	"slices"
	"strings"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/cri/model"
)

// containerConfig converts and checks what CreateContainer asked for. Every error is InvalidArgument or NotImplemented and
// names the field. config.windows has no meaning on Linux and is ignored.
func containerConfig(c *runtime.ContainerConfig) (model.ContainerConfig, error) {
	var out model.ContainerConfig
	if c == nil {
		return out, invalid("config", "is missing")
	}
	md := c.GetMetadata()
	if md == nil {
		return out, invalid("config.metadata", "is missing")
	}
	if err := checkName("config.metadata.name", md.GetName()); err != nil {
		return out, err
	}
	if len(c.GetCDIDevices()) > 0 {
		return out, unsupported("CDI devices", "config.CDI_devices")
	}
	out = model.ContainerConfig{
		Name: md.GetName(), Attempt: md.GetAttempt(),
		Command: slices.Clone(c.GetCommand()), Args: slices.Clone(c.GetArgs()), WorkingDir: c.GetWorkingDir(),
		Labels: maps.Clone(c.GetLabels()), Annotations: maps.Clone(c.GetAnnotations()),
		Stdin: c.GetStdin(), StdinOnce: c.GetStdinOnce(), TTY: c.GetTty(),
	}
	var err error
	for _, step := range []func() error{
		func() error { return containerImage("config.image", c.GetImage(), &out) },
		func() error { return checkCommand(out) },
		func() error { return checkLabels("config.labels", out.Labels, maxLabelValue) },
		func() error { return checkLabels("config.annotations", out.Annotations, maxLabels) },
		func() error { out.Envs, err = envs("config.envs", c.GetEnvs()); return err },
		func() error { out.Mounts, err = mounts("config.mounts", c.GetMounts()); return err },
		func() error { out.Devices, err = devices("config.devices", c.GetDevices()); return err },
		func() error { out.LogPath, err = logPathIn("config.log_path", c.GetLogPath()); return err },
		func() error { out.StopSignal, err = signalFromCRI(c.GetStopSignal()); return err },
		func() error {
			out.Resources = resources(c.GetLinux().GetResources())
			return checkResources("config.linux.resources", out.Resources)
		},
		func() error {
			out.Security, err = containerSecurity("config.linux.security_context", c.GetLinux().GetSecurityContext())
			return err
		},
	} {
		if err := step(); err != nil {
			return model.ContainerConfig{}, err
		}
	}
	return out, nil
}

// containerImage converts the ImageSpec. image_ref is for image volumes only, and runtime_handler for pulls: a container runs
// under its sandbox's handler.
func containerImage(field string, i *runtime.ImageSpec, out *model.ContainerConfig) error {
	if i.GetImage() == "" {
		return invalid(field+".image", "is missing")
	}
	out.ImageSpec, out.UserImage = i.GetImage(), i.GetUserSpecifiedImage()
	if out.UserImage == "" {
		out.UserImage = out.ImageSpec
	}
	for name, v := range map[string]string{".image": out.ImageSpec, ".user_specified_image": out.UserImage} {
		if err := checkText(field+name, v, maxPath); err != nil {
			return err
		}
	}
	out.ImageAnnotations = maps.Clone(i.GetAnnotations())
	return checkLabels(field+".annotations", out.ImageAnnotations, maxLabels)
}

// checkCommand refuses what execve(2) cannot take.
func checkCommand(c model.ContainerConfig) error {
	for name, list := range map[string][]string{"config.command": c.Command, "config.args": c.Args} {
		for i, a := range list {
			if strings.ContainsRune(a, 0) {
				return invalid(name, "entry %d has a NUL byte", i)
			}
			if len(a) >= maxArg {
				return invalid(name, "entry %d has %d bytes, the kernel takes %d", i, len(a), maxArg-1)
			}
		}
	}
	return checkPath("config.working_dir", c.WorkingDir)
}

// envs converts variables; the values are kept byte for byte.
func envs(field string, in []*runtime.KeyValue) ([]model.Env, error) {
	var out []model.Env
	for i, kv := range in {
		k, v := kv.GetKey(), kv.GetValue()
		if k == "" {
			return nil, invalid(field, "entry %d has no key", i)
		}
		if strings.ContainsAny(k, "=\x00") {
			return nil, invalid(field, "key %q has a '=' or a NUL byte", k)
		}
		if bytes.IndexByte(v, 0) >= 0 {
			return nil, invalid(field, "the value of %q has a NUL byte", k)
		}
		if len(k)+len(v)+2 > maxArg {
			return nil, invalid(field, "%q and its value have %d bytes, the kernel takes %d", k, len(k)+len(v), maxArg-2)
		}
		out = append(out, model.Env{Key: k, Value: bytes.Clone(v)})
	}
	return out, nil
}

// devices converts the devices; a path left out in the container is that of the node.
func devices(field string, in []*runtime.Device) ([]model.Device, error) {
	if err := checkCount(field, len(in)); err != nil {
		return nil, err
	}
	var out []model.Device
	for _, d := range in {
		host, err := hostPath(field+".host_path", d.GetHostPath())
		if err != nil {
			return nil, err
		}
		at := d.GetContainerPath()
		if at == "" {
			at = host
		}
		if at, err = containerPath(field+".container_path", at); err != nil {
			return nil, err
		}
		perm := d.GetPermissions()
		if perm == "" || len(perm) > 3 || strings.Trim(perm, "rwm") != "" {
			return nil, invalid(field+".permissions", "%q of %s is not one or more of r, w and m", perm, host)
		}
		out = append(out, model.Device{ContainerPath: at, HostPath: host, Permissions: perm})
	}
	return out, nil
}
