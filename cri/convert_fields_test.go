package cri

import (
	"reflect"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type verdict int

const (
	converted verdict = iota // taking the field out of a request changes what comes out, or is refused
	refused                  // setting the field is refused by its name
	ignored                  // the field has no meaning for us
)

// fieldVerdicts says what becomes of every field that a request of RunPodSandbox or CreateContainer can carry.
func fieldVerdicts() map[string]verdict {
	m := map[string]verdict{
		"PodSandboxConfig.windows": ignored, // Linux only
		"ContainerConfig.windows":  ignored,
		// A sandbox has no process whose groups an image could extend.
		"LinuxSandboxSecurityContext.supplemental_groups_policy": ignored,
		"ImageSpec.runtime_handler":                              ignored, // for pulls
		"ImageSpec.image_ref":                                    ignored, // for image volumes
		"Mount.image":                                            refused,
		"Mount.image_sub_path":                                   refused,
		"Mount.mount_options":                                    refused,
		"ContainerConfig.CDI_devices":                            refused,
		"CDIDevice.name":                                         refused,
	}
	for message, fields := range map[string]string{
		"PodSandboxConfig":              "metadata hostname log_directory dns_config port_mappings labels annotations linux",
		"PodSandboxMetadata":            "name uid namespace attempt",
		"DNSConfig":                     "servers searches options",
		"PortMapping":                   "protocol container_port host_port host_ip",
		"LinuxPodSandboxConfig":         "cgroup_parent security_context sysctls overhead resources",
		"LinuxSandboxSecurityContext":   "namespace_options selinux_options run_as_user run_as_group readonly_rootfs supplemental_groups privileged seccomp apparmor seccomp_profile_path",
		"LinuxContainerResources":       "cpu_period cpu_quota cpu_shares memory_limit_in_bytes oom_score_adj cpuset_cpus cpuset_mems hugepage_limits unified memory_swap_limit_in_bytes",
		"HugepageLimit":                 "page_size limit",
		"NamespaceOption":               "network pid ipc target_id userns_options",
		"UserNamespace":                 "mode uids gids",
		"IDMapping":                     "host_id container_id length",
		"SELinuxOption":                 "user role type level",
		"Int64Value":                    "value",
		"SecurityProfile":               "profile_type localhost_ref",
		"ContainerConfig":               "metadata image command args working_dir envs mounts devices labels annotations log_path stdin stdin_once tty linux stop_signal",
		"ContainerMetadata":             "name attempt",
		"ImageSpec":                     "image annotations user_specified_image",
		"KeyValue":                      "key value",
		"Mount":                         "container_path host_path readonly selinux_relabel propagation uidMappings gidMappings recursive_read_only",
		"Device":                        "container_path host_path permissions",
		"LinuxContainerConfig":          "resources security_context",
		"LinuxContainerSecurityContext": "capabilities privileged namespace_options selinux_options run_as_user run_as_group run_as_username readonly_rootfs supplemental_groups supplemental_groups_policy no_new_privs masked_paths readonly_paths seccomp apparmor apparmor_profile seccomp_profile_path",
		"Capability":                    "add_capabilities drop_capabilities add_ambient_capabilities",
	} {
		for _, f := range strings.Fields(fields) {
			m[message+"."+f] = converted
		}
	}
	return m
}

func fieldName(f protoreflect.FieldDescriptor) string {
	return string(f.Parent().Name()) + "." + string(f.Name())
}

// allFields lists the fields of a message and of all that it holds, without those below an ignored one.
func allFields(m protoreflect.MessageDescriptor, verdicts map[string]verdict, into map[string]bool) {
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		if m.IsMapEntry() || into[fieldName(f)] {
			continue
		}
		into[fieldName(f)] = true
		if v, ok := verdicts[fieldName(f)]; f.Message() != nil && !(ok && v == ignored) {
			allFields(f.Message(), verdicts, into)
		}
	}
}

func TestEveryFieldOfARequestIsConvertedOrRefused(t *testing.T) {
	verdicts, fields := fieldVerdicts(), map[string]bool{}
	allFields((&runtime.PodSandboxConfig{}).ProtoReflect().Descriptor(), verdicts, fields)
	allFields((&runtime.ContainerConfig{}).ProtoReflect().Descriptor(), verdicts, fields)
	for f := range fields {
		if _, ok := verdicts[f]; !ok {
			t.Errorf("field %s of CRI has no verdict: convert it or refuse it by name", f)
		}
	}
	for f := range verdicts {
		if !fields[f] {
			t.Errorf("verdict on %s, which CRI does not have", f)
		}
	}
	proven := map[string]bool{}
	for _, s := range sandboxSamples() {
		probe(t, s, proven, func(m proto.Message) (any, error) { return sandboxConfig(m.(*runtime.PodSandboxConfig), "") })
	}
	for _, c := range containerSamples() {
		probe(t, c, proven, func(m proto.Message) (any, error) { return containerConfig(m.(*runtime.ContainerConfig)) })
	}
	for f, v := range verdicts {
		if v == converted && !proven[f] {
			t.Errorf("field %s changes nothing when it is left out of any sample", f)
		}
		if v == ignored && proven[f] {
			t.Errorf("field %s is called ignored but has an effect", f)
		}
	}
}

// probe takes one field after the other out of a request and notes which made a difference.
func probe(t *testing.T, sample proto.Message, proven map[string]bool, convert func(proto.Message) (any, error)) {
	t.Helper()
	want, err := convert(sample)
	if err != nil {
		t.Fatalf("sample is not valid: %v", err)
	}
	var paths [][]step
	collect(sample.ProtoReflect(), nil, &paths)
	for _, p := range paths {
		m := proto.Clone(sample)
		name := clearField(m.ProtoReflect(), p)
		if got, err := convert(m); err != nil || !reflect.DeepEqual(got, want) {
			proven[name] = true
		}
	}
}

// step is one field on the way down a message; index counts in a list.
type step struct {
	field protoreflect.FieldDescriptor
	index int
}

func collect(m protoreflect.Message, at []step, out *[][]step) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		here := append(append([]step{}, at...), step{field: f})
		*out = append(*out, here)
		switch {
		case f.IsList() && f.Message() != nil:
			for i := range v.List().Len() {
				below := append([]step{}, here...)
				below[len(below)-1].index = i
				collect(v.List().Get(i).Message(), below, out)
			}
		case f.Message() != nil && !f.IsMap():
			collect(v.Message(), here, out)
		}
		return true
	})
}

func clearField(m protoreflect.Message, p []step) string {
	for _, s := range p[:len(p)-1] {
		v := m.Get(s.field)
		if s.field.IsList() {
			m = v.List().Get(s.index).Message()
		} else {
			m = v.Message()
		}
	}
	last := p[len(p)-1].field
	m.Clear(last)
	return fieldName(last)
}

func TestUnsupportedFieldsAreRefusedByName(t *testing.T) {
	m := func(edit func(*runtime.Mount)) *runtime.ContainerConfig {
		c := containerSamples()[0]
		edit(c.Mounts[0])
		return c
	}
	cdi := containerSamples()[0]
	cdi.CDIDevices = []*runtime.CDIDevice{{Name: "vendor.com/gpu=0"}}
	for name, c := range map[string]*runtime.ContainerConfig{
		"image":          m(func(m *runtime.Mount) { m.Image = &runtime.ImageSpec{Image: "x"} }),
		"image_sub_path": m(func(m *runtime.Mount) { m.ImageSubPath = "x" }),
		"mount_options":  m(func(m *runtime.Mount) { m.MountOptions = []string{"noexec"} }),
		"CDI_devices":    cdi,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := containerConfig(c)
			wantNotImplemented(t, err, name)
		})
	}
}

func ids(container, host, n uint32) []*runtime.IDMapping {
	return []*runtime.IDMapping{{ContainerId: container, HostId: host, Length: n}}
}

// Samples together have every field that is converted, set to something else than its default.
func sandboxSamples() []*runtime.PodSandboxConfig {
	limits := func() *runtime.LinuxContainerResources { return sampleResources() }
	return []*runtime.PodSandboxConfig{{
		Metadata: &runtime.PodSandboxMetadata{Name: "web-0", Uid: "6a9b", Namespace: "shop", Attempt: 2},
		Hostname: "web-0", LogDirectory: "/var/log/pods/shop_web-0_6a9b",
		DnsConfig:    &runtime.DNSConfig{Servers: []string{"10.96.0.10"}, Searches: []string{"svc.cluster.local"}, Options: []string{"ndots:5"}},
		PortMappings: []*runtime.PortMapping{{Protocol: runtime.Protocol_SCTP, ContainerPort: 80, HostPort: 8080, HostIp: "127.0.0.1"}},
		Labels:       map[string]string{"app": "web"}, Annotations: map[string]string{"note": "two\nlines"},
		Linux: &runtime.LinuxPodSandboxConfig{
			CgroupParent: "/kubepods/pod6a9b", Sysctls: map[string]string{"net.core.somaxconn": "512"},
			Overhead: limits(), Resources: limits(),
			SecurityContext: &runtime.LinuxSandboxSecurityContext{
				NamespaceOptions: &runtime.NamespaceOption{
					Pid:           runtime.NamespaceMode_CONTAINER,
					UsernsOptions: &runtime.UserNamespace{Uids: ids(0, 65536, 65536), Gids: ids(0, 65536, 65536)},
				},
				SelinuxOptions: &runtime.SELinuxOption{User: "u", Role: "r", Type: "t", Level: "s0:c1,c2"},
				RunAsUser:      &runtime.Int64Value{Value: 1000}, RunAsGroup: &runtime.Int64Value{Value: 2000},
				ReadonlyRootfs: true, SupplementalGroups: []int64{3000}, Privileged: true,
				SupplementalGroupsPolicy: runtime.SupplementalGroupsPolicy_Strict,
				Seccomp:                  &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_Localhost, LocalhostRef: "a.json"},
				Apparmor:                 &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_Localhost, LocalhostRef: "a"},
			},
		},
	}, {
		Metadata: &runtime.PodSandboxMetadata{Name: "host", Uid: "1", Namespace: "shop"},
		Linux: &runtime.LinuxPodSandboxConfig{SecurityContext: &runtime.LinuxSandboxSecurityContext{
			//lint:ignore SA1019 older clients still send it
			SeccompProfilePath: "runtime/default",
			NamespaceOptions:   &runtime.NamespaceOption{Network: runtime.NamespaceMode_NODE, Ipc: runtime.NamespaceMode_NODE, Pid: runtime.NamespaceMode_NODE},
		}},
	}}
}

func sampleResources() *runtime.LinuxContainerResources {
	return &runtime.LinuxContainerResources{
		CpuPeriod: 50000, CpuQuota: 25000, CpuShares: 512, MemoryLimitInBytes: 1 << 26, OomScoreAdj: 900, CpusetCpus: "0-1",
		CpusetMems: "0", HugepageLimits: []*runtime.HugepageLimit{{PageSize: "2MB", Limit: 4 << 20}},
		Unified: map[string]string{"memory.high": "60000000"}, MemorySwapLimitInBytes: 1 << 27,
	}
}

func containerSamples() []*runtime.ContainerConfig {
	return []*runtime.ContainerConfig{{
		Metadata: &runtime.ContainerMetadata{Name: "app", Attempt: 3},
		Image:    &runtime.ImageSpec{Image: "sha256:abc", UserSpecifiedImage: "shop/app:2", Annotations: map[string]string{"a": "b"}},
		Command:  []string{"/bin/app"}, Args: []string{"-v"}, WorkingDir: "/srv",
		Envs: []*runtime.KeyValue{{Key: "A", Value: []byte("b\xff")}},
		Mounts: []*runtime.Mount{{
			ContainerPath: "/data", HostPath: "/var/lib/kubelet/data", Readonly: true, SelinuxRelabel: true, RecursiveReadOnly: true,
			UidMappings: ids(1, 65537, 65535), GidMappings: ids(1, 65537, 65535),
		}, {
			ContainerPath: "/mnt", HostPath: "/mnt", Propagation: runtime.MountPropagation_PROPAGATION_BIDIRECTIONAL,
		}, {ContainerPath: "/ro", HostPath: "/mnt", Readonly: true}},
		Devices: []*runtime.Device{{ContainerPath: "/dev/x", HostPath: "/dev/null", Permissions: "rw"}},
		Labels:  map[string]string{"app": "web"}, Annotations: map[string]string{"note": "x"},
		LogPath: "app/3.log", Stdin: true, StdinOnce: true, Tty: true, StopSignal: runtime.Signal_SIGNAL_SIGQUIT,
		Linux: &runtime.LinuxContainerConfig{
			Resources: sampleResources(),
			SecurityContext: &runtime.LinuxContainerSecurityContext{
				Capabilities: &runtime.Capability{
					AddCapabilities: []string{"NET_ADMIN"}, DropCapabilities: []string{"ALL"}, AddAmbientCapabilities: []string{"CAP_NET_BIND_SERVICE"},
				},
				Privileged: true, ReadonlyRootfs: true, NoNewPrivs: true,
				NamespaceOptions: &runtime.NamespaceOption{
					Pid: runtime.NamespaceMode_TARGET, TargetId: "0123abc",
					UsernsOptions: &runtime.UserNamespace{Uids: ids(0, 65536, 65536), Gids: ids(0, 65536, 65536)},
				},
				SelinuxOptions: &runtime.SELinuxOption{User: "u", Role: "r", Type: "t", Level: "s0:c1,c2"},
				RunAsUser:      &runtime.Int64Value{Value: 1000}, RunAsGroup: &runtime.Int64Value{Value: 2000},
				SupplementalGroups: []int64{3000}, SupplementalGroupsPolicy: runtime.SupplementalGroupsPolicy_Strict,
				MaskedPaths: []string{"/proc/kcore"}, ReadonlyPaths: []string{"/proc/sys"},
				Seccomp:  &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_Localhost, LocalhostRef: "/etc/a.json"},
				Apparmor: &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_Localhost, LocalhostRef: "a"},
			},
		},
	}, {
		Metadata: &runtime.ContainerMetadata{Name: "app"}, Image: &runtime.ImageSpec{Image: "x"},
		Linux: &runtime.LinuxContainerConfig{SecurityContext: &runtime.LinuxContainerSecurityContext{
			RunAsUsername: "web",
			//lint:ignore SA1019 older clients still send it
			SeccompProfilePath: "localhost//etc/a.json", ApparmorProfile: "localhost/a",
			NamespaceOptions: &runtime.NamespaceOption{
				Network: runtime.NamespaceMode_NODE, Ipc: runtime.NamespaceMode_NODE, Pid: runtime.NamespaceMode_NODE,
				UsernsOptions: &runtime.UserNamespace{Mode: runtime.NamespaceMode_NODE},
			},
		}},
	}}
}
