package cri

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/cri/model"
)

func wantInvalid(t *testing.T, err error, mention string) {
	t.Helper()
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), mention) {
		t.Fatalf("error %v, want InvalidArgument that mentions %q", err, mention)
	}
}

func wantNotImplemented(t *testing.T, err error, mention string) {
	t.Helper()
	if !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), "not supported yet") || !strings.Contains(err.Error(), mention) {
		t.Fatalf("error %v, want NotImplemented that mentions %q", err, mention)
	}
}

func TestSandboxConfigRefuses(t *testing.T) {
	security := func(edit func(*runtime.LinuxSandboxSecurityContext)) func(*runtime.PodSandboxConfig) {
		return func(c *runtime.PodSandboxConfig) { edit(c.Linux.SecurityContext) }
	}
	for name, tc := range map[string]struct {
		edit    func(*runtime.PodSandboxConfig)
		mention string
	}{
		"missing metadata":              {func(c *runtime.PodSandboxConfig) { c.Metadata = nil }, "metadata"},
		"no name":                       {func(c *runtime.PodSandboxConfig) { c.Metadata.Name = "" }, "metadata.name"},
		"no uid":                        {func(c *runtime.PodSandboxConfig) { c.Metadata.Uid = "" }, "metadata.uid"},
		"no namespace":                  {func(c *runtime.PodSandboxConfig) { c.Metadata.Namespace = "" }, "metadata.namespace"},
		"long name":                     {func(c *runtime.PodSandboxConfig) { c.Metadata.Name = strings.Repeat("a", 254) }, "253"},
		"name with a slash":             {func(c *runtime.PodSandboxConfig) { c.Metadata.Name = "../x" }, "metadata.name"},
		"name with a NUL":               {func(c *runtime.PodSandboxConfig) { c.Metadata.Name = "a\x00b" }, "metadata.name"},
		"name with a newline":           {func(c *runtime.PodSandboxConfig) { c.Metadata.Name = "a\nb" }, "metadata.name"},
		"name with a CNI separator":     {func(c *runtime.PodSandboxConfig) { c.Metadata.Name = "a;K8S_POD_NAME=b" }, "metadata.name"},
		"uid as a path":                 {func(c *runtime.PodSandboxConfig) { c.Metadata.Uid = ".." }, "metadata.uid"},
		"long host name":                {func(c *runtime.PodSandboxConfig) { c.Hostname = strings.Repeat("a", 65) }, "hostname"},
		"host name with a newline":      {func(c *runtime.PodSandboxConfig) { c.Hostname = "a\n127.0.0.1 b" }, "hostname"},
		"host name ending in a dash":    {func(c *runtime.PodSandboxConfig) { c.Hostname = "a-" }, "hostname"},
		"host name with an empty label": {func(c *runtime.PodSandboxConfig) { c.Hostname = "a..b" }, "hostname"},
		"relative log directory":        {func(c *runtime.PodSandboxConfig) { c.LogDirectory = "logs" }, "log_directory"},
		"empty label key":               {func(c *runtime.PodSandboxConfig) { c.Labels[""] = "x" }, "labels"},
		"long label key":                {func(c *runtime.PodSandboxConfig) { c.Labels[strings.Repeat("a", 513)] = "x" }, "labels"},
		"long label value":              {func(c *runtime.PodSandboxConfig) { c.Labels["a"] = strings.Repeat("a", 4097) }, "labels"},
		"annotations too large in sum":  {func(c *runtime.PodSandboxConfig) { c.Annotations["a"] = strings.Repeat("a", 320<<10) }, "annotations"},
		"annotation key with a newline": {func(c *runtime.PodSandboxConfig) { c.Annotations["a\nb"] = "" }, "annotations"},
		"DNS server that is none":       {func(c *runtime.PodSandboxConfig) { c.DnsConfig.Servers = []string{"dns.example"} }, "servers"},
		"DNS option with a newline":     {func(c *runtime.PodSandboxConfig) { c.DnsConfig.Options = []string{"ndots:5\nnameserver 6.6.6.6"} }, "options"},
		"DNS search with a newline":     {func(c *runtime.PodSandboxConfig) { c.DnsConfig.Searches = []string{"a\nb"} }, "searches"},
		"host port out of range":        {func(c *runtime.PodSandboxConfig) { c.PortMappings[0].HostPort = 65536 }, "host port"},
		"negative container port":       {func(c *runtime.PodSandboxConfig) { c.PortMappings[0].ContainerPort = -1 }, "container port"},
		"unknown protocol":              {func(c *runtime.PodSandboxConfig) { c.PortMappings[0].Protocol = 9 }, "protocol"},
		"host IP that is none":          {func(c *runtime.PodSandboxConfig) { c.PortMappings[0].HostIp = "localhost" }, "host IP"},
		"cgroup parent that climbs":     {func(c *runtime.PodSandboxConfig) { c.Linux.CgroupParent = "/kubepods/../.." }, "cgroup_parent"},
		"cgroup parent of three parts":  {func(c *runtime.PodSandboxConfig) { c.Linux.CgroupParent = "a.slice:x:y" }, "cgroup_parent"},
		"sysctl of the node":            {func(c *runtime.PodSandboxConfig) { c.Linux.Sysctls = map[string]string{"kernel.core_pattern": "x"} }, "kernel.core_pattern"},
		"sysctl path that climbs":       {func(c *runtime.PodSandboxConfig) { c.Linux.Sysctls = map[string]string{"net/../kernel/panic": "1"} }, "net/../kernel/panic"},
		"sysctl dots that climb":        {func(c *runtime.PodSandboxConfig) { c.Linux.Sysctls = map[string]string{"net...kernel": "1"} }, "sysctl"},
		"CVE-2022-0811: value with more": {func(c *runtime.PodSandboxConfig) {
			c.Linux.Sysctls["net.core.somaxconn"] = "512+kernel.core_pattern=|/x"
		}, "somaxconn"},
		"sysctl value with a newline": {func(c *runtime.PodSandboxConfig) { c.Linux.Sysctls["net.core.somaxconn"] = "512\n1" }, "somaxconn"},
		"net sysctl on the node's network": {func(c *runtime.PodSandboxConfig) {
			c.Linux.SecurityContext.NamespaceOptions.Network = runtime.NamespaceMode_NODE
		}, "would change the node"},
		"ipc sysctl in the node's IPC": {func(c *runtime.PodSandboxConfig) {
			c.Linux.Sysctls = map[string]string{"kernel.shmmax": "1"}
			c.Linux.SecurityContext.NamespaceOptions.Ipc = runtime.NamespaceMode_NODE
		}, "would change the node"},
		"group without user":  {security(func(s *runtime.LinuxSandboxSecurityContext) { s.RunAsUser = nil }), "run_as_group"},
		"user beyond 32 bits": {security(func(s *runtime.LinuxSandboxSecurityContext) { s.RunAsUser.Value = 1 << 32 }), "run_as_user"},
		"pid mode TARGET":     {security(func(s *runtime.LinuxSandboxSecurityContext) { s.NamespaceOptions.Pid = runtime.NamespaceMode_TARGET }), "TARGET"},
		"network of container": {security(func(s *runtime.LinuxSandboxSecurityContext) {
			s.NamespaceOptions.Network = runtime.NamespaceMode_CONTAINER
		}), "network"},
		"target without mode":  {security(func(s *runtime.LinuxSandboxSecurityContext) { s.NamespaceOptions.TargetId = "x" }), "target_id"},
		"unknown policy":       {security(func(s *runtime.LinuxSandboxSecurityContext) { s.SupplementalGroupsPolicy = 7 }), "policy"},
		"seccomp without file": {security(func(s *runtime.LinuxSandboxSecurityContext) { s.Seccomp.LocalhostRef = "" }), "localhost_ref"},
	} {
		t.Run(name, func(t *testing.T) {
			c := proto.Clone(sandboxSamples()[0]).(*runtime.PodSandboxConfig)
			tc.edit(c)
			_, err := sandboxConfig(c, "")
			wantInvalid(t, err, tc.mention)
		})
	}
}

func TestContainerConfigRefuses(t *testing.T) {
	security := func(edit func(*runtime.LinuxContainerSecurityContext)) func(*runtime.ContainerConfig) {
		return func(c *runtime.ContainerConfig) { edit(c.Linux.SecurityContext) }
	}
	resource := func(edit func(*runtime.LinuxContainerResources)) func(*runtime.ContainerConfig) {
		return func(c *runtime.ContainerConfig) { edit(c.Linux.Resources) }
	}
	for name, tc := range map[string]struct {
		edit    func(*runtime.ContainerConfig)
		mention string
	}{
		"missing metadata":            {func(c *runtime.ContainerConfig) { c.Metadata = nil }, "metadata"},
		"no name":                     {func(c *runtime.ContainerConfig) { c.Metadata.Name = "" }, "metadata.name"},
		"no image":                    {func(c *runtime.ContainerConfig) { c.Image = nil }, "image"},
		"NUL in the command":          {func(c *runtime.ContainerConfig) { c.Command = []string{"a\x00"} }, "command"},
		"argument too long":           {func(c *runtime.ContainerConfig) { c.Args = []string{strings.Repeat("a", 128<<10)} }, "args"},
		"variable without a name":     {func(c *runtime.ContainerConfig) { c.Envs[0].Key = "" }, "envs"},
		"variable name with =":        {func(c *runtime.ContainerConfig) { c.Envs[0].Key = "A=B" }, "envs"},
		"variable name with NUL":      {func(c *runtime.ContainerConfig) { c.Envs[0].Key = "A\x00" }, "envs"},
		"variable value with NUL":     {func(c *runtime.ContainerConfig) { c.Envs[0].Value = []byte("a\x00b") }, "envs"},
		"variable too long":           {func(c *runtime.ContainerConfig) { c.Envs[0].Value = bytes.Repeat([]byte("a"), 128<<10) }, "envs"},
		"log path that climbs":        {func(c *runtime.ContainerConfig) { c.LogPath = "../x.log" }, "log_path"},
		"log path that climbs inside": {func(c *runtime.ContainerConfig) { c.LogPath = "a/../../x.log" }, "log_path"},
		"absolute log path":           {func(c *runtime.ContainerConfig) { c.LogPath = "/etc/x.log" }, "log_path"},
		"log path of the folder":      {func(c *runtime.ContainerConfig) { c.LogPath = "./" }, "log_path"},
		"log path with a newline":     {func(c *runtime.ContainerConfig) { c.LogPath = "a\nb" }, "log_path"},
		"working directory with NUL":  {func(c *runtime.ContainerConfig) { c.WorkingDir = "/a\x00" }, "working_dir"},
		"unknown stop signal":         {func(c *runtime.ContainerConfig) { c.StopSignal = 99 }, "stop_signal"},
		"mount without place":         {func(c *runtime.ContainerConfig) { c.Mounts[0].ContainerPath = "" }, "container_path"},
		"mount over the root":         {func(c *runtime.ContainerConfig) { c.Mounts[0].ContainerPath = "/a/.." }, "container_path"},
		"mount path with NUL":         {func(c *runtime.ContainerConfig) { c.Mounts[0].ContainerPath = "/a\x00" }, "container_path"},
		"mount without host path":     {func(c *runtime.ContainerConfig) { c.Mounts[0].HostPath = "" }, "host_path"},
		"relative host path":          {func(c *runtime.ContainerConfig) { c.Mounts[0].HostPath = "a" }, "host_path"},
		"unknown propagation":         {func(c *runtime.ContainerConfig) { c.Mounts[0].Propagation = 5 }, "propagation"},
		"recursive but not read-only": {func(c *runtime.ContainerConfig) { c.Mounts[0].Readonly = false }, "recursive_read_only"},
		"recursive and propagating": {func(c *runtime.ContainerConfig) {
			c.Mounts[0].Propagation = runtime.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
		}, "recursive_read_only"},
		"mappings of users only":    {func(c *runtime.ContainerConfig) { c.Mounts[0].GidMappings = nil }, "Mappings"},
		"device without host path":  {func(c *runtime.ContainerConfig) { c.Devices[0].HostPath = "" }, "host_path"},
		"device without permission": {func(c *runtime.ContainerConfig) { c.Devices[0].Permissions = "" }, "permissions"},
		"device permission unknown": {func(c *runtime.ContainerConfig) { c.Devices[0].Permissions = "rx" }, "permissions"},

		"unknown capability":   {security(func(s *runtime.LinuxContainerSecurityContext) { s.Capabilities.AddCapabilities = []string{"NET_ADMNI"} }), "NET_ADMNI"},
		"unknown drop":         {security(func(s *runtime.LinuxContainerSecurityContext) { s.Capabilities.DropCapabilities = []string{"CAP_"} }), "CAP_"},
		"group without user":   {security(func(s *runtime.LinuxContainerSecurityContext) { s.RunAsUser = nil }), "run_as_group"},
		"user and name":        {security(func(s *runtime.LinuxContainerSecurityContext) { s.RunAsUsername = "web" }), "run_as_username"},
		"negative user":        {security(func(s *runtime.LinuxContainerSecurityContext) { s.RunAsUser.Value = -1 }), "run_as_user"},
		"the kernel's no user": {security(func(s *runtime.LinuxContainerSecurityContext) { s.RunAsUser.Value = 1<<32 - 1 }), "run_as_user"},
		"group beyond 32 bits": {security(func(s *runtime.LinuxContainerSecurityContext) { s.SupplementalGroups = []int64{1 << 32} }), "supplemental_groups"},
		"user name with newline": {security(func(s *runtime.LinuxContainerSecurityContext) {
			s.RunAsUser, s.RunAsUsername = nil, "web\nroot:x:0:0::/:"
		}), "run_as_username"},
		"target without id":       {security(func(s *runtime.LinuxContainerSecurityContext) { s.NamespaceOptions.TargetId = "" }), "target_id"},
		"masked relative path":    {security(func(s *runtime.LinuxContainerSecurityContext) { s.MaskedPaths = []string{"proc"} }), "masked_paths"},
		"seccomp ref that climbs": {security(func(s *runtime.LinuxContainerSecurityContext) { s.Seccomp.LocalhostRef = "../../etc/x" }), "localhost_ref"},
		"ref of another type": {security(func(s *runtime.LinuxContainerSecurityContext) {
			s.Seccomp.ProfileType = runtime.SecurityProfile_Unconfined
		}), "localhost_ref"},
		"AppArmor by the name of none": {security(func(s *runtime.LinuxContainerSecurityContext) { s.Apparmor.LocalhostRef = "unconfined" }), "localhost_ref"},
		"unknown old AppArmor": {security(func(s *runtime.LinuxContainerSecurityContext) {
			s.Apparmor = nil
			//lint:ignore SA1019 older clients still send it
			s.ApparmorProfile = "what"
		}), "what"},
		"SELinux part with a colon": {security(func(s *runtime.LinuxContainerSecurityContext) { s.SelinuxOptions.Type = "spc_t:s0" }), "type"},

		"user mapping without length": {security(func(s *runtime.LinuxContainerSecurityContext) { s.NamespaceOptions.UsernsOptions.Uids[0].Length = 0 }), "uids"},
		"user mapping that wraps": {security(func(s *runtime.LinuxContainerSecurityContext) {
			s.NamespaceOptions.UsernsOptions.Uids[0].HostId = 1<<32 - 10
		}), "uids"},
		"user mapping without root": {security(func(s *runtime.LinuxContainerSecurityContext) {
			s.NamespaceOptions.UsernsOptions.Gids[0].ContainerId = 1
		}), "gids"},
		"user namespace without maps": {security(func(s *runtime.LinuxContainerSecurityContext) { s.NamespaceOptions.UsernsOptions.Uids = nil }), "uids"},
		"user namespace of the target": {security(func(s *runtime.LinuxContainerSecurityContext) {
			s.NamespaceOptions.UsernsOptions.Mode = runtime.NamespaceMode_TARGET
		}), "mode"},
		"mapped, but the node's": {security(func(s *runtime.LinuxContainerSecurityContext) {
			s.NamespaceOptions.UsernsOptions.Mode = runtime.NamespaceMode_NODE
		}), "NODE"},
		"overlapping mappings": {security(func(s *runtime.LinuxContainerSecurityContext) {
			u := s.NamespaceOptions.UsernsOptions
			u.Uids = append(u.Uids, &runtime.IDMapping{ContainerId: 100000, HostId: 65540, Length: 1})
		}), "overlap"},

		"short period":            {resource(func(r *runtime.LinuxContainerResources) { r.CpuPeriod = 10 }), "cpu_period"},
		"negative shares":         {resource(func(r *runtime.LinuxContainerResources) { r.CpuShares = -1 }), "cpu_shares"},
		"negative memory":         {resource(func(r *runtime.LinuxContainerResources) { r.MemoryLimitInBytes = -2 }), "memory_limit"},
		"swap below memory":       {resource(func(r *runtime.LinuxContainerResources) { r.MemorySwapLimitInBytes = 1 }), "memory_swap"},
		"score out of range":      {resource(func(r *runtime.LinuxContainerResources) { r.OomScoreAdj = 1001 }), "oom_score_adj"},
		"cpuset with a newline":   {resource(func(r *runtime.LinuxContainerResources) { r.CpusetCpus = "0\n1" }), "cpuset_cpus"},
		"page size without unit":  {resource(func(r *runtime.LinuxContainerResources) { r.HugepageLimits[0].PageSize = "2" }), "hugepage"},
		"page size as a path":     {resource(func(r *runtime.LinuxContainerResources) { r.HugepageLimits[0].PageSize = "../2MB" }), "hugepage"},
		"unified key as a path":   {resource(func(r *runtime.LinuxContainerResources) { r.Unified["../memory.max"] = "1" }), "unified"},
		"unified key of no file":  {resource(func(r *runtime.LinuxContainerResources) { r.Unified["memory"] = "1" }), "unified"},
		"unified moves processes": {resource(func(r *runtime.LinuxContainerResources) { r.Unified["cgroup.procs"] = "1" }), "unified"},
		"unified value of two":    {resource(func(r *runtime.LinuxContainerResources) { r.Unified["memory.high"] = "1\n2" }), "unified"},
	} {
		t.Run(name, func(t *testing.T) {
			c := proto.Clone(containerSamples()[0]).(*runtime.ContainerConfig)
			tc.edit(c)
			got, err := containerConfig(c)
			wantInvalid(t, err, tc.mention)
			if got.Name != "" && !reflect.DeepEqual(got, model.ContainerConfig{}) {
				t.Fatalf("a refused request gave %+v", got)
			}
		})
	}
}

func TestNilMessagesAreRefusedByName(t *testing.T) {
	_, err := sandboxConfig(nil, "")
	wantInvalid(t, err, "config")
	_, err = containerConfig(nil)
	wantInvalid(t, err, "config")
}

func TestSmallestRequestsAreAccepted(t *testing.T) {
	sb, err := sandboxConfig(&runtime.PodSandboxConfig{Metadata: &runtime.PodSandboxMetadata{Name: "a", Uid: "b", Namespace: "c"}}, "rich")
	if err != nil {
		t.Fatal(err)
	}
	want := model.Namespaces{Network: model.ModePod, PID: model.ModePod, IPC: model.ModePod}
	if sb.Namespaces != want || sb.RuntimeHandler != "rich" || sb.DNS != nil || sb.Seccomp != nil {
		t.Fatalf("got %+v", sb)
	}
	c, err := containerConfig(&runtime.ContainerConfig{Metadata: &runtime.ContainerMetadata{Name: "a"}, Image: &runtime.ImageSpec{Image: "busybox"}})
	if err != nil {
		t.Fatal(err)
	}
	if c.UserImage != "busybox" || c.Resources != nil || c.Security.Seccomp != nil || c.StopSignal != "" {
		t.Fatalf("got %+v", c)
	}
}

func TestValuesArriveAsTheyWereGiven(t *testing.T) {
	c := containerSamples()[0]
	c.Linux.SecurityContext.Capabilities.AddCapabilities = []string{"net_raw", "CAP_SYS_PTRACE", "all"}
	c.Mounts[0].ContainerPath = "data/../srv/./x/"
	c.Annotations["multi"] = "line\nline\x00\t"
	got, err := containerConfig(c)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"CAP_NET_RAW", "CAP_SYS_PTRACE", "ALL"}; !reflect.DeepEqual(got.Security.AddCapabilities, want) {
		t.Errorf("capabilities %q, want %q", got.Security.AddCapabilities, want)
	}
	if got.Mounts[0].ContainerPath != "/srv/x" {
		t.Errorf("mount at %q, want /srv/x", got.Mounts[0].ContainerPath)
	}
	if string(got.Envs[0].Value) != "b\xff" {
		t.Errorf("value %q is not byte for byte", got.Envs[0].Value)
	}
	if got.Annotations["multi"] != "line\nline\x00\t" {
		t.Errorf("annotation %q is not byte for byte", got.Annotations["multi"])
	}
}

func TestPortWithoutHostPortTakesNone(t *testing.T) {
	c := sandboxSamples()[0]
	c.PortMappings[0].HostPort = 0
	got, err := sandboxConfig(c, "")
	if err != nil || len(got.PortMappings) != 0 {
		t.Fatalf("got %+v, %v", got.PortMappings, err)
	}
}

func TestSysctlsOfThePodAreAccepted(t *testing.T) {
	c := sandboxSamples()[0]
	c.Linux.Sysctls = map[string]string{
		"net.ipv4.ip_local_port_range": "1024\t65000", "net/ipv4/conf/eth0.100/rp_filter": "1", "kernel.sem": "250 32000 100 128",
		"fs.mqueue.msg_max": "100", "kernel.shm_rmid_forced": "1", "net.ipv4.ip_local_reserved_ports": "8080,9148-9150",
		"net.ipv6.conf.all.stable_secret": "2001:db8::1",
	}
	if _, err := sandboxConfig(c, ""); err != nil {
		t.Fatal(err)
	}
}

func TestDeprecatedProfilesMeanTheSame(t *testing.T) {
	for old, want := range map[string]*model.Profile{
		"":                      nil,
		"runtime/default":       {Type: model.ProfileRuntimeDefault},
		"docker/default":        {Type: model.ProfileRuntimeDefault},
		"unconfined":            {Type: model.ProfileUnconfined},
		"localhost//etc/p.json": {Type: model.ProfileLocalhost, Ref: "/etc/p.json"},
		"localhost/p.json":      {Type: model.ProfileLocalhost, Ref: "p.json"},
	} {
		got, err := profile("seccomp", nil, old, true)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q gave %+v, %v, want %+v", old, got, err, want)
		}
	}
	got, err := profile("seccomp", &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_Unconfined}, "runtime/default", true)
	if err != nil || got.Type != model.ProfileUnconfined {
		t.Errorf("the new field does not win: %+v, %v", got, err)
	}
}

func TestSignalsConvertBothWays(t *testing.T) {
	for number := range runtime.Signal_name {
		name, err := signalFromCRI(runtime.Signal(number))
		if err != nil {
			t.Fatal(err)
		}
		if back := signalToCRI(name); back != runtime.Signal(number) {
			t.Errorf("%s became %q became %s", runtime.Signal(number), name, back)
		}
	}
	for name, want := range map[string]runtime.Signal{
		"SIGRTMIN+3": runtime.Signal_SIGNAL_SIGRTMINPLUS3, "37": runtime.Signal_SIGNAL_SIGRTMINPLUS3,
		"term": runtime.Signal_SIGNAL_SIGTERM, "15": runtime.Signal_SIGNAL_SIGTERM, "6": runtime.Signal_SIGNAL_SIGABRT,
		"nonsense": runtime.Signal_SIGNAL_RUNTIME_DEFAULT,
	} {
		if got := signalToCRI(name); got != want {
			t.Errorf("%q became %s, want %s", name, got, want)
		}
	}
}

func TestStatusesGiveBackWhatWasAsked(t *testing.T) {
	c := containerSamples()[0]
	got, err := containerConfig(c)
	if err != nil {
		t.Fatal(err)
	}
	same := func(what string, a, b proto.Message) {
		t.Helper()
		if !proto.Equal(a, b) {
			t.Errorf("%s: got %v, want %v", what, a, b)
		}
	}
	same("resources", resourcesToCRI(got.Resources), c.Linux.Resources)
	same("namespaces", namespaceOptions(got.Security.Namespaces), c.Linux.SecurityContext.NamespaceOptions)
	for i, m := range mountsToCRI(got.Mounts) {
		same("mount", m, c.Mounts[i])
	}
	same("user", userToCRI(model.User{UID: 1, GID: 2, SupplementalGroups: []int64{2, 3}}),
		&runtime.ContainerUser{Linux: &runtime.LinuxContainerUser{Uid: 1, Gid: 2, SupplementalGroups: []int64{2, 3}}})
	if resourcesToCRI(nil) != nil || resources(nil) != nil || mountsToCRI(nil) != nil {
		t.Error("nothing became something")
	}
}

func FuzzSysctlName(f *testing.F) {
	for _, s := range []string{"net.core.somaxconn", "net/ipv4/conf/eth0.1/rp_filter", "..", "a./b", "net.a/../b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		dotted, ok := sysctlName(s)
		if !ok {
			return
		}
		// As a path below /proc/sys it stays there.
		for _, part := range strings.Split(dotted, ".") {
			for _, p := range strings.Split(part, "/") {
				if p == "" || strings.ContainsAny(p, "\x00\n") {
					t.Fatalf("%q was accepted with the part %q", s, p)
				}
			}
		}
	})
}
