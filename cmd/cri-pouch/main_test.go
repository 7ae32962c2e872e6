package main

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
)

func TestLists(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"ps": {[]string{"ps"}, `
CONTAINER      NAME   POD   IMAGE             STATE     ATTEMPT   AGE
c223456789ab   app    web   r.example/app:2   Running   1         5m
`},
		"ps -a": {[]string{"ps", "-a"}, `
CONTAINER      NAME   POD   IMAGE              STATE                  ATTEMPT   AGE
c223456789ab   app    web   r.example/app:2    Running                1         5m
d123456789ab   side   web   r.example/side:1   Created                0         1h
c123456789ab   app    web   0123456789ab       Exited (3) OOMKilled   0         2h
`},
		"ps of a pod without containers": {[]string{"ps", "-a", "--pod", "old"}, "\nCONTAINER   NAME   POD   IMAGE   STATE   ATTEMPT   AGE\n"},
		"pods": {[]string{"pods"}, `
POD            NAME   NAMESPACE   STATE      IP         ATTEMPT   AGE
a123456789ab   web    prod        Ready      10.0.0.9   0         3h
b223456789ab   old    prod        NotReady   -          2         3d
`},
		"images": {[]string{"images"}, `
IMAGE                TAG      ID             SIZE     PINNED
a.example/x          <none>   ff23456789ab   999B     yes
r.example:5000/app   1        0123456789ab   12.3MB
r.example:5000/app   2        0123456789ab   12.3MB
`},
		"status": {[]string{"status"}, `
CONDITION      STATUS   REASON   MESSAGE
RuntimeReady   true
NetworkReady   true
`},
		"version": {[]string{"version"}, "\nclient: cri-pouch dev\ndaemon: cri-pouch 1.2?, CRI v1\n"},
		"ps -q":   {[]string{"ps", "-q"}, "\nc2" + strings.Repeat("0123456789abcdef", 4)[2:] + "\n"},
		"pods -o name": {[]string{"pods", "-o", "name"}, "\na1" + strings.Repeat("0123456789abcdef", 4)[2:] + "\nb2" +
			strings.Repeat("0123456789abcdef", 4)[2:] + "\n"},
	} {
		t.Run(name, func(t *testing.T) {
			r := command(t, node(), "", tc.args...)
			if r.code != 0 || r.err != "" {
				t.Fatalf("code %d, stderr %q", r.code, r.err)
			}
			if want := strings.TrimPrefix(tc.want, "\n"); r.out != want {
				t.Errorf("got\n%s\nwant\n%s", r.out, want)
			}
		})
	}
}

func TestPullsInProgress(t *testing.T) {
	f := node()
	f.pulls = []*pouchv1.Pull{{Reference: "r.example/a:1", BytesTotal: 2000, BytesDone: 1000, LayersTotal: 3, LayersUnpacked: 1, StartedAt: time.Now().UnixNano()}}
	r := command(t, f, "", "images", "--pulls")
	if want := "IMAGE           DONE     SIZE     LAYERS   AGE\nr.example/a:1   1.00kB   2.00kB   1/3      0s\n"; r.out != want {
		t.Errorf("got %q, %q", r.out, r.err)
	}
}

func TestListsAsJSON(t *testing.T) {
	for list, key := range map[string]string{"ps": "containers", "pods": "items", "images": "images"} {
		r := command(t, node(), "", list, "-o", "json")
		var got map[string][]map[string]any
		if err := json.Unmarshal([]byte(r.out), &got); err != nil || len(got[key]) == 0 {
			t.Errorf("%s: %v of %s %s", list, err, r.out, r.err)
		}
	}
	// Empty lists are lists.
	r := command(t, &fake{}, "", "ps", "-o", "json")
	if r.out != "{\n  \"containers\": []\n}\n" {
		t.Errorf("an empty list is %q", r.out)
	}
}

func TestStatusOfANodeThatIsNotReady(t *testing.T) {
	f := node()
	f.conditions[1] = &runtime.RuntimeCondition{Type: "NetworkReady", Reason: "NoConfiguration", Message: "put a conflist\ninto /etc/cni/net.d"}
	r := command(t, f, "", "status")
	if r.code != 1 || !strings.Contains(r.out, "NetworkReady   false    NoConfiguration   put a conflist?into /etc/cni/net.d\n") {
		t.Errorf("code %d, %s", r.code, r.out)
	}
}

func TestInspect(t *testing.T) {
	for ref, want := range map[string]string{
		"side": `"id": "d1`, "a1": `"id": "a1`, "r.example:5000/app:2": `"id": "sha256:0123`, "c1": `"pid": 7`,
	} {
		r := command(t, node(), "", "inspect", ref)
		if r.code != 0 || !strings.Contains(r.out, want) || !json.Valid([]byte(r.out)) {
			t.Errorf("%s: code %d, %s%s", ref, r.code, r.out, r.err)
		}
	}
	r := command(t, node(), "", "inspect", "none")
	if r.code != 1 || r.err != "cri-pouch: no container, pod or image \"none\", `cri-pouch ps -a`, `pods` and `images` list all\n" {
		t.Errorf("nothing: %d, %q", r.code, r.err)
	}
	if r := command(t, node(), "", "inspect", "--type", "image", "web"); r.code != 1 || !strings.Contains(r.err, `no image "web"`) {
		t.Errorf("a pod as an image: %d, %q", r.code, r.err)
	}
}

func TestErrors(t *testing.T) {
	// No daemon: what to do is said.
	dir := t.TempDir()
	stale := filepath.Join(dir, "stale")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	refused := status.Error(codes.FailedPrecondition, "container is in\nthe wrong state")
	for name, tc := range map[string]struct {
		args []string
		fail map[string]error
		code int
		want string
	}{
		"no socket":           {[]string{"--socket", dir + "/none", "ps"}, nil, 1, "no daemon at " + dir + "/none: start it with `systemctl start cri-pouch` or `cri-pouch serve`"},
		"a dead socket":       {[]string{"--socket", stale, "ps"}, nil, 1, "is gone: start it"},
		"a file":              {[]string{"--socket", file, "ps"}, nil, 1, "cri-pouch: "},
		"a wrong command":     {[]string{"pss"}, nil, 2, "unknown command \"pss\", `cri-pouch --help` lists all"},
		"a wrong flag":        {[]string{"ps", "--al"}, nil, 2, "unknown flag: --al, `cri-pouch ps --help` lists all flags"},
		"an argument missing": {[]string{"stop"}, nil, 2, "cri-pouch stop needs a container, see `cri-pouch stop --help`"},
		"one too many":        {[]string{"logs", "a", "b"}, nil, 2, "cri-pouch logs takes one container"},
		"a wrong output":      {[]string{"ps", "-o", "yaml"}, nil, 2, `--output is "yaml", it must be table, json or name (IDs only)`},
		"name for no list":    {[]string{"status", "-o", "name"}, nil, 2, `it must be table or json`},
		"a wrong type":        {[]string{"inspect", "--type", "thing", "x"}, nil, 2, `--type is "thing"`},
		"a wrong mount":       {[]string{"run", "-v", "a:/b", "x"}, nil, 2, "--mount a:/b: both paths must be absolute"},
		"a mount of one":      {[]string{"run", "-v", "/b", "x"}, nil, 2, "write HOST:CONTAINER"},
		"a wrong mount mode":  {[]string{"run", "-v", "/a:/b:rox", "x"}, nil, 2, `"rox" is neither ro nor rw`},
		"a wrong variable":    {[]string{"run", "-e", "=x", "x"}, nil, 2, "--env =x: write NAME=VALUE"},
		"a wrong label":       {[]string{"run", "-l", "x", "x"}, nil, 2, "--label x: write KEY=VALUE"},
		"a password in sight": {[]string{"pull", "--creds", "me:secret", "x"}, nil, 2, "--creds takes - or env:NAME"},
		"credentials of none": {[]string{"pull", "--creds", "-", "x"}, nil, 2, "credentials have the form USER:PASSWORD"},
		"an unknown name":     {[]string{"exec", "none", "true"}, nil, 1, "no container \"none\", `cri-pouch ps -a` lists all"},
		"the daemon's error":  {[]string{"stop", "app"}, map[string]error{"StopContainer": refused}, 1, "cri-pouch: container is in; the wrong state\n"},
		"its class":           {[]string{"stop", "app"}, map[string]error{"StopContainer": status.Error(codes.NotFound, "no container app: not found")}, 1, "cri-pouch: no container app\n"},
		"a daemon too old":    {[]string{"stop", "app"}, map[string]error{"StopContainer": status.Error(codes.Unimplemented, "no such thing")}, 1, "is it cri-pouch, and as new as this program?"},
		"a file missing":      {[]string{"image", "import", dir + "/none.tar"}, nil, 1, "none.tar: no such file or directory"},
		"a log missing":       {[]string{"logs", "app"}, nil, 1, "has no log"},
		"a wrong config":      {[]string{"config", "check", "--root", "x"}, nil, 1, `--root: root: "x" is relative`},
		"a command of group":  {[]string{"image", "export"}, nil, 2, "unknown command \"export\", `cri-pouch image --help` lists all"},
		"another one":         {[]string{"config", "show"}, nil, 2, "unknown command \"show\", `cri-pouch config --help` lists all"},
	} {
		t.Run(name, func(t *testing.T) {
			f := node()
			f.fail = tc.fail
			r := command(t, f, "", tc.args...)
			if r.code != tc.code || !strings.Contains(r.err, tc.want) || strings.Count(r.err, "\n") != 1 || r.out != "" {
				t.Errorf("code %d (want %d), stdout %q, stderr %q, want %q", r.code, tc.code, r.out, r.err, tc.want)
			}
		})
	}
}

func TestOneFailureDoesNotKeepTheOthers(t *testing.T) {
	f := node()
	r := command(t, f, "", "stop", "-t", "3", "none", "app", "side")
	if r.code != 1 || r.out != "app\nside\n" || !strings.Contains(r.err, `no container "none"`) {
		t.Errorf("code %d, %q, %q", r.code, r.out, r.err)
	}
	if s := sent[*runtime.StopContainerRequest](t, f); s.Timeout != 3 || !strings.HasPrefix(s.ContainerId, "d1") {
		t.Errorf("sent %v", s)
	}
}

func TestExec(t *testing.T) {
	f := node()
	f.exec = &runtime.ExecSyncResponse{Stdout: []byte("out\x00"), Stderr: []byte("err"), ExitCode: 42}
	r := command(t, f, "", "exec", "--timeout", "5", "app", "ls", "-l", "--color")
	if r != (result{42, "out\x00", "err"}) {
		t.Errorf("got %+v", r)
	}
	s := sent[*runtime.ExecSyncRequest](t, f)
	if !slices.Equal(s.Cmd, []string{"ls", "-l", "--color"}) || s.Timeout != 5 || !strings.HasPrefix(s.ContainerId, "c2") {
		t.Errorf("sent %v", s)
	}
}

func TestRunInANewPod(t *testing.T) {
	f := node()
	r := command(t, f, "", "run", "--name", "n", "--pod", "new", "-e", "A=b=c", "-v", "/h:/c:ro", "--label", "x=y", "--annotation", "q=r",
		"--cgroup-parent", "/p", "--log-root", "/logs", "--entrypoint", "/bin/e", "r.example:5000/app:1", "arg", "--flag")
	if r.code != 0 || r.out != "newcontainer\n" {
		t.Fatalf("got %+v", r)
	}
	pod := sent[*runtime.RunPodSandboxRequest](t, f).GetConfig()
	if pod.Metadata.Name != "new" || pod.Metadata.Namespace != "default" || pod.Metadata.Uid == "" || pod.Hostname != "new" ||
		pod.LogDirectory != "/logs/default_new_"+pod.Metadata.Uid || pod.Linux.CgroupParent != "/p" || pod.Labels["x"] != "y" || pod.Annotations["q"] != "r" ||
		pod.Linux.SecurityContext.NamespaceOptions.Network != runtime.NamespaceMode_POD {
		t.Errorf("pod %v", pod)
	}
	req := sent[*runtime.CreateContainerRequest](t, f)
	c := req.Config
	if req.PodSandboxId != "newpod" || c.Metadata.Name != "n" || !slices.Equal(c.Command, []string{"/bin/e"}) || !slices.Equal(c.Args, []string{"arg", "--flag"}) ||
		len(c.Envs) != 1 || c.Envs[0].Key != "A" || string(c.Envs[0].Value) != "b=c" || c.LogPath != "n_0.log" || c.Labels["x"] != "y" ||
		len(c.Mounts) != 1 || !c.Mounts[0].Readonly || c.Mounts[0].HostPath != "/h" || c.Mounts[0].ContainerPath != "/c" {
		t.Errorf("container %v", c)
	}
	if sc := c.Linux.SecurityContext; sc.Seccomp.ProfileType != runtime.SecurityProfile_RuntimeDefault || len(sc.MaskedPaths) == 0 || len(sc.ReadonlyPaths) == 0 || sc.Privileged {
		t.Errorf("security context %v", sc)
	}
	for _, m := range f.requests {
		if _, pulled := m.(*runtime.PullImageRequest); pulled {
			t.Error("an image that is there was pulled")
		}
	}
}

func TestRunInAPresentPod(t *testing.T) {
	f := node()
	r := command(t, f, "", "run", "--namespace", "prod", "--pod", "web", "missing.example/image")
	if r.code != 0 {
		t.Fatalf("got %+v", r)
	}
	if s := sent[*runtime.PullImageRequest](t, f); s.Image.Image != "missing.example/image" {
		t.Errorf("pulled %v", s)
	}
	s := sent[*runtime.CreateContainerRequest](t, f)
	if s.PodSandboxId != f.pods[0].Id || s.SandboxConfig.Metadata.Uid != "u-web" || s.SandboxConfig.Labels["l"] != "pod's" || !strings.HasPrefix(s.Config.Metadata.Name, "image-") {
		t.Errorf("created %v", s)
	}
	for _, m := range f.requests {
		if _, made := m.(*runtime.RunPodSandboxRequest); made {
			t.Error("a second pod was made")
		}
	}
	if r := command(t, node(), "", "run", "--namespace", "prod", "--pod", "old", "r.example:5000/app:1"); r.code != 1 || !strings.Contains(r.err, "is there and stopped") {
		t.Errorf("in a stopped pod: %+v", r)
	}
}

func TestRunTakesBackWhatItMade(t *testing.T) {
	f := node()
	f.fail = map[string]error{"StartContainer": status.Error(codes.NotFound, "exec /none: no such file")}
	logs := t.TempDir()
	// The daemon makes the folder of the pod's logs.
	f.onRun = func(r *runtime.RunPodSandboxRequest) {
		if err := os.Mkdir(r.Config.LogDirectory, 0o755); err != nil {
			t.Error(err)
		}
	}
	r := command(t, f, "", "run", "--pod", "new", "--log-root", logs, "r.example:5000/app:1", "/none")
	if left, err := os.ReadDir(logs); len(left) != 0 || err != nil {
		t.Errorf("log folders are left: %v, %v", left, err)
	}
	if r.code != 1 || r.err != "cri-pouch: exec /none: no such file\n" {
		t.Errorf("got %+v", r)
	}
	if s := sent[*runtime.RemoveContainerRequest](t, f); s.ContainerId != "newcontainer" {
		t.Errorf("removed %v", s)
	}
	if s := sent[*runtime.RemovePodSandboxRequest](t, f); s.PodSandboxId != "newpod" {
		t.Errorf("removed %v", s)
	}
	f = node()
	f.fail = map[string]error{"CreateContainer": status.Error(codes.InvalidArgument, "bad"), "StopPodSandbox": status.Error(codes.Unavailable, "worse")}
	if r := command(t, f, "", "run", "--pod", "new", "r.example:5000/app:1"); !strings.Contains(r.err, "bad (and what was made could not be removed: remove pod: ") {
		t.Errorf("a failed undo: %+v", r)
	}
}

func TestRunAttached(t *testing.T) {
	f := node()
	f.logPath = filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(f.logPath, []byte("2026-01-02T03:04:05Z stdout F hello\n2026-01-02T03:04:05Z stderr F oh\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := command(t, f, "", "run", "--detach=false", "r.example:5000/app:1"); r != (result{3, "hello\n", "oh\n"}) {
		t.Errorf("got %+v", r)
	}
}

func TestLogs(t *testing.T) {
	f := node()
	f.logPath = filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(f.logPath, []byte("2026-01-02T03:04:05Z stdout F one\n2026-01-02T03:04:06Z stdout F two\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := command(t, f, "", "logs", "--tail", "1", "-t", "app"); r != (result{0, "2026-01-02T03:04:06Z two\n", ""}) {
		t.Errorf("got %+v", r)
	}
	// An ended container's log ends too.
	if r := command(t, f, "", "logs", "-f", "c1"); r != (result{0, "one\ntwo\n", ""}) {
		t.Errorf("got %+v", r)
	}
}

func TestPull(t *testing.T) {
	f := node()
	f.pulling = make(chan struct{})
	f.pulls = []*pouchv1.Pull{{Reference: "other:1"}, {Reference: "docker.io/library/busybox:latest", BytesTotal: 1000, LayersTotal: 1}}
	// The pull ends once its progress has been printed.
	var out strings.Builder
	errs := &signalling{written: f.pulling}
	code := run(t.Context(), []string{"--socket", f.serve(t), "pull", "--creds", "-", "busybox"}, streams{strings.NewReader("me:se:cret\n"), &out, errs})
	if code != 0 || out.String() != "sha256:pulled\n" || errs.String() != "pulling busybox: 0B of 1.00kB, 0 of 1 layers unpacked\n" {
		t.Errorf("code %d, %q, %q", code, out.String(), errs.String())
	}
	if s := sent[*runtime.PullImageRequest](t, f); s.Auth.GetUsername() != "me" || s.Auth.GetPassword() != "se:cret" {
		t.Errorf("sent %v", s)
	}
	f = node()
	t.Setenv("TOKEN_OF_TEST", "a:b")
	command(t, f, "", "pull", "--creds", "env:TOKEN_OF_TEST", "busybox")
	if s := sent[*runtime.PullImageRequest](t, f); s.Auth.GetUsername() != "a" || s.Auth.GetPassword() != "b" {
		t.Errorf("sent %v", s)
	}
	f = node()
	command(t, f, "", "pull", "busybox")
	if s := sent[*runtime.PullImageRequest](t, f); s.Auth != nil {
		t.Errorf("sent %v", s)
	}
}

// signalling is a buffer that says when it has been written to.
type signalling struct {
	strings.Builder
	written chan struct{}
	once    sync.Once
}

func (s *signalling) Write(b []byte) (int, error) {
	defer s.once.Do(func() { close(s.written) })
	return s.Builder.Write(b)
}

func TestImport(t *testing.T) {
	f := node()
	tar := strings.Repeat("0123456789", 200_000)
	file := filepath.Join(t.TempDir(), "i.tar")
	if err := os.WriteFile(file, []byte(tar), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"image", "import", file}, {"image", "import", "-"}} {
		f.imported = nil
		if r := command(t, f, tar, args...); r != (result{0, "a/b:1 sha256:x\n", ""}) || string(f.imported) != tar {
			t.Errorf("%v: %+v, %d bytes", args, r, len(f.imported))
		}
	}
	f.fail = map[string]error{"ImportImage": status.Error(codes.InvalidArgument, "no archive")}
	if r := command(t, f, tar, "image", "import", file); r.code != 1 || r.err != "cri-pouch: "+file+": no archive\n" {
		t.Errorf("refused: %+v", r)
	}
}

func TestRemove(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		want string // of stderr
		ids  []string
	}{
		"a running container":         {[]string{"rm", "app"}, "runs: stop it first, or remove it with --force", nil},
		"a running one by force":      {[]string{"rm", "-f", "app"}, "", []string{"c2"}},
		"an ended one":                {[]string{"rm", "c1"}, "", []string{"c1"}},
		"a ready pod":                 {[]string{"rm", "web"}, "is ready: stop it with `cri-pouch pods stop`", nil},
		"a stopped pod":               {[]string{"rm", "old"}, "", []string{"b2"}},
		"a ready pod by force":        {[]string{"pods", "rm", "-f", "web"}, "", []string{"a1"}},
		"an ambiguous beginning":      {[]string{"rm", "c"}, `"c" means more than one container`, nil},
		"a pod that holds containers": {[]string{"pods", "rm", "held"}, "holds container", nil},
		"a name of both":              {[]string{"rm", "-f", "both"}, "", []string{"both-pod"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := node()
			f.pods = append(f.pods, &runtime.PodSandbox{Id: "held-pod", Metadata: &runtime.PodSandboxMetadata{Name: "held"}, State: runtime.PodSandboxState_SANDBOX_NOTREADY},
				&runtime.PodSandbox{Id: "both-pod", Metadata: &runtime.PodSandboxMetadata{Name: "both", Namespace: "default", Uid: "u"}})
			f.containers = append(f.containers, &runtime.Container{Id: "held-container", PodSandboxId: "held-pod", Metadata: &runtime.ContainerMetadata{Name: "in"}},
				&runtime.Container{Id: "both-container", PodSandboxId: "both-pod", Metadata: &runtime.ContainerMetadata{Name: "both"}})
			root := t.TempDir()
			logs := filepath.Join(root, "default_both_u")
			if err := os.Mkdir(logs, 0o755); err != nil {
				t.Fatal(err)
			}
			r := command(t, f, "", append(tc.args, "--log-root", root)...)
			if tc.want == "" && r.err != "" || !strings.Contains(r.err, tc.want) {
				t.Errorf("stderr %q, want %q", r.err, tc.want)
			}
			var removed []string
			for _, m := range f.requests {
				switch m := m.(type) {
				case *runtime.RemoveContainerRequest:
					removed = append(removed, m.ContainerId)
				case *runtime.RemovePodSandboxRequest:
					removed = append(removed, m.PodSandboxId)
				}
			}
			if len(removed) != len(tc.ids) || len(removed) == 1 && !strings.HasPrefix(removed[0], tc.ids[0]) {
				t.Errorf("removed %v, want %v", removed, tc.ids)
			}
			if _, err := os.Stat(logs); os.IsNotExist(err) != slices.Equal(tc.ids, []string{"both-pod"}) {
				t.Errorf("log folder: %v", err)
			}
		})
	}
}

func TestSocketOfTheEnvironment(t *testing.T) {
	t.Setenv("CRI_POUCH_SOCKET", "unix://"+node().serve(t))
	var out, errs strings.Builder
	if code := run(t.Context(), []string{"ps", "-q"}, streams{nil, &out, &errs}); code != 0 || out.Len() == 0 {
		t.Errorf("code %d, %s", code, errs.String())
	}
}

func TestServeTakesFlags(t *testing.T) {
	t.Setenv("CRI_POUCH_SOCKET", "/elsewhere.sock") // is for clients
	config := filepath.Join(t.TempDir(), "c.toml")
	if err := os.WriteFile(config, []byte("root = '/file'\n[network]\ncni_bin_dirs = ['/file']"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, errs strings.Builder
	args := []string{"config", "check", "--config", config, "--state", "/s", "--cni-bin-dir", "/a", "--cni-bin-dir", "/b", "--socket", "/x.sock"}
	if code := run(t.Context(), args, streams{nil, &out, &errs}); code != 0 {
		t.Fatal(errs.String())
	}
	for _, want := range []string{`root = "/file"`, `state = "/s"`, `cni_bin_dirs = ["/a", "/b"]`, `socket = "/x.sock"`} {
		if !strings.Contains(out.String(), want+"\n") {
			t.Errorf("%s is not in force:\n%s", want, out.String())
		}
	}
	out.Reset()
	if run(t.Context(), []string{"config", "check", "--config", config}, streams{nil, &out, &errs}); !strings.Contains(out.String(), "socket = \"\"\n") {
		t.Errorf("the clients' environment has set the daemon's socket:\n%s", out.String())
	}
}

func TestCompletion(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"containers":       {[]string{"stop", ""}, "app\nside\n:4\n"},
		"of a beginning":   {[]string{"exec", "s"}, "side\n:4\n"},
		"the command":      {[]string{"exec", "app", "s"}, ":0\n"},
		"pods":             {[]string{"pods", "rm", ""}, "web\nold\n:4\n"},
		"images":           {[]string{"rmi", "r"}, "r.example:5000/app:1\nr.example:5000/app:2\n:4\n"},
		"all kinds":        {[]string{"inspect", ""}, "app\nside\nweb\nold\nr.example:5000/app:1\nr.example:5000/app:2\n:4\n"},
		"without a daemon": {[]string{"stop", "--socket", "/none", ""}, ":4\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if r := command(t, node(), "", append([]string{"__complete"}, tc.args...)...); r.out != tc.want {
				t.Errorf("got %q, want %q (%s)", r.out, tc.want, r.err)
			}
		})
	}
	if r := command(t, node(), "", "completion", "bash"); r.code != 0 || !strings.Contains(r.out, "cri-pouch") {
		t.Errorf("bash: %+v", r)
	}
}

func TestEveryCommandIsDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	root := newRoot(streams{})
	commands := root.Commands()
	for i := 0; i < len(commands); i++ {
		c := commands[i]
		commands = append(commands, c.Commands()...)
		if c.Name() == "help" {
			continue
		}
		if !strings.Contains(string(doc), "`"+c.CommandPath()) {
			t.Errorf("docs/cli.md has no `%s`", c.CommandPath())
		}
		if c.Short == "" {
			t.Errorf("%s has no short description", c.CommandPath())
		}
	}
}
