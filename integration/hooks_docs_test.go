package integration

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"go.yaml.in/yaml/v3"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
	"github.com/cri-pouch/cri-pouch/integration/lab"
)

// example gives the metadata of the pod under a heading of docs/hooks.md.
func example(t testing.TB, heading string) func(*runtime.PodSandboxConfig) {
	t.Helper()
	doc, err := os.ReadFile("../docs/hooks.md")
	if errors.Is(err, fs.ErrNotExist) { // the virtual machine has no repository
		doc, err = os.ReadFile(filepath.Join(harness.Top(t), "docs", "hooks.md"))
	}
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(doc), "\n### "+heading+"\n")
	section, _, _ = strings.Cut(section, "\n#")
	_, text, begins := strings.Cut(section, "```yaml\n")
	text, _, ends := strings.Cut(text, "```\n")
	if !found || !begins || !ends {
		t.Fatalf("docs/hooks.md has no example %q", heading)
	}
	var pod struct {
		Metadata struct {
			Namespace   string            `yaml:"namespace"`
			Annotations map[string]string `yaml:"annotations"`
		} `yaml:"metadata"`
	}
	if err := yaml.Unmarshal([]byte(text), &pod); err != nil {
		t.Fatal(err)
	}
	return func(c *runtime.PodSandboxConfig) {
		c.Annotations = pod.Metadata.Annotations
		if pod.Metadata.Namespace != "" {
			c.Metadata.Namespace = pod.Metadata.Namespace
		}
	}
}

// office is a server that pods reach: it hands out certificates and takes reports.
type office struct {
	address string
	mu      sync.Mutex
	reports []string
}

func newOffice(t testing.TB, n *harness.Node) *office {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(n.Network.Gateway().String(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	o := &office{address: "http://" + l.Addr().String()}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			b, _ := io.ReadAll(io.LimitReader(r.Body, 1<<16))
			o.mu.Lock()
			o.reports = append(o.reports, string(b))
			o.mu.Unlock()
			return
		}
		fmt.Fprintf(w, "certificate of %s\n", r.URL.Path)
	})}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	return o
}

// deafServer gives the address of a server that pods reach and that never answers: the kernel takes the connections, nobody
// else does.
func deafServer(t testing.TB, n *harness.Node) string {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(n.Network.Gateway().String(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return "http://" + l.Addr().String()
}

func (o *office) heard() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]string(nil), o.reports...)
}

// program gives a program of this machine with the libraries that it is linked with.
func program(t testing.TB, name string) (files []lab.File) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%v: make deps", err)
	}
	linked, err := exec.Command("ldd", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range append([]string{path}, regexp.MustCompile(`/\S+`).FindAllString(string(linked), -1)...) {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, lab.File{Name: p, Mode: 0o755, Content: b})
	}
	return files
}

// volume mounts a folder of the test's.
func volume(dir, at string) func(*runtime.ContainerConfig) {
	return func(c *runtime.ContainerConfig) {
		c.Mounts = append(c.Mounts, &runtime.Mount{HostPath: dir, ContainerPath: at})
	}
}

// The examples of docs/hooks.md do what the text says, as they are written there.
func TestTheExamplesOfTheHandbookWork(t *testing.T) {
	metrics, address := metricsOption(t)
	n := harness.Start(t, metrics, harness.Config("[hooks]\ngrants = [\"shop=NET_ADMIN,uid:0\"]\n"))
	ref := pushBusybox(t, n, "hooks:tools", func(*v1.ConfigFile) {}, program(t, "curl")...)
	busybox := image(ref, 0)
	t.Run("Add a route", func(t *testing.T) {
		p := n.RunPod(t, example(t, "Add a route"))
		c := p.Run(t, "app", busybox)
		if got := c.Exec(t, "ip", "route"); !strings.Contains(got, "192.0.2.0/24 via "+n.Network.Gateway().String()) {
			t.Errorf("the routes are %q", got)
		}
		c.Stop(t, 0)
		p.Run(t, "app", image(ref, 1)) // the route is there already
	})
	t.Run("Fetch a certificate", func(t *testing.T) {
		o, dir := newOffice(t, n), t.TempDir()
		server := func(address string) func(*runtime.ContainerConfig) {
			return func(c *runtime.ContainerConfig) {
				c.Envs = []*runtime.KeyValue{{Key: "CERT_SERVER", Value: []byte(address)}}
			}
		}
		p := n.RunPod(t, example(t, "Fetch a certificate"))
		text, code := p.RunToEnd(t, "app", busybox, volume(dir, "/certs"), server(o.address), harness.Sh("cat /certs/tls.pem; stat -c %a /certs/tls.pem"))
		if code != 0 || text != "certificate of /"+p.Config.Hostname+".pem\n600\n" {
			t.Errorf("code %d, %q", code, text)
		}
		if err := tryStart(t, p.Create(t, "other", busybox, volume(dir, "/certs"), server("http://127.0.0.1:1"))); err == nil || !strings.Contains(err.Error(), `prestart hook "certificate" failed`) {
			t.Errorf("without a server: %v", err)
		}
	})
	t.Run("Grant permission", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		p := n.RunPod(t, example(t, "Grant permission"))
		text, code := p.RunToEnd(t, "app", busybox, volume(dir, "/data"), harness.Sh("id -u; echo mine >/data/file && cat /data/file"), func(c *runtime.ContainerConfig) {
			c.Linux.SecurityContext.RunAsUser = &runtime.Int64Value{Value: 1000}
		})
		if code != 0 || text != "1000\nmine\n" {
			t.Errorf("code %d, %q", code, text)
		}
	})
	t.Run("Clean temporary data", func(t *testing.T) {
		dir := t.TempDir()
		p := n.RunPod(t, example(t, "Clean temporary data"))
		_, code := p.RunToEnd(t, "app", busybox, volume(dir, "/data"), harness.Sh("mkdir -p /data/tmp; touch /data/tmp/a /data/app.pid /data/kept; tail /dev/zero"), func(c *runtime.ContainerConfig) {
			c.Linux.Resources.MemoryLimitInBytes, c.Linux.Resources.MemorySwapLimitInBytes = 32<<20, 32<<20
		})
		if code != 137 {
			t.Errorf("code %d", code)
		}
		for name, there := range map[string]bool{"tmp": true, "tmp/a": false, "app.pid": false, "kept": true} {
			if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != there {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
	t.Run("Report an abnormal exit", func(t *testing.T) {
		failures, err := strconv.Atoi(metric(t, address, `cri_pouch_hook_failures_total{stage="poststop"}`))
		if err != nil {
			t.Fatal(err)
		}
		o := newOffice(t, n)
		p := n.RunPod(t, example(t, "Report an abnormal exit"))
		for attempt, script := range []string{"exit 0", "exit 5"} {
			c := p.Run(t, "app", image(ref, uint32(attempt)), harness.Sh(script), func(c *runtime.ContainerConfig) {
				c.Envs = []*runtime.KeyValue{{Key: "REPORT_TO", Value: []byte(o.address)}}
			})
			c.Ended(t)
			if s := c.Status(t); s.Message != "" {
				t.Errorf("the message is %q", s.Message)
			}
		}
		if got := o.heard(); len(got) != 1 || got[0] != p.Config.Hostname+": Error, code 5, attempt 1" {
			t.Errorf("reported: %q", got)
		}
		// A server that refuses, and one that never answers.
		for attempt, test := range []struct{ server, code, said string }{{"http://127.0.0.1:1", "7", "curl: (7)"}, {deafServer(t, n), "28", "curl: (28)"}} {
			c := p.Run(t, "late", image(ref, uint32(attempt)), harness.Sh("exit 5"), func(c *runtime.ContainerConfig) {
				c.Envs = []*runtime.KeyValue{{Key: "REPORT_TO", Value: []byte(test.server)}}
			})
			text, _ := c.Ended(t)
			s := c.Status(t)
			if want := `poststop hook "report" failed with exit code ` + test.code + ": " + test.said; s.ExitCode != 5 || s.Reason != "Error" || !strings.HasPrefix(s.Message, want) {
				t.Errorf("the end is %v, want %q", s, want)
			}
			if !strings.Contains(text, "[hook report] "+test.said) {
				t.Errorf("the log is %q", text)
			}
			if r := hookResults(t, c); len(r) != 1 || r[0].Duration > harness.Patience(harness.LongEnough) {
				t.Errorf("results are %+v", r)
			}
			if got, want := metric(t, address, `cri_pouch_hook_failures_total{stage="poststop"}`), strconv.Itoa(failures+attempt+1); got != want {
				t.Errorf("%s failures are counted, want %s", got, want)
			}
		}
	})
}
