package example

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// folders gives the folders of examples/.
func folders(t *testing.T) []string {
	t.Helper()
	dirs, err := filepath.Glob("../../examples/*/Dockerfile")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("there are no examples: %v", err)
	}
	for i := range dirs {
		dirs[i] = filepath.Dir(dirs[i])
	}
	return dirs
}

func TestEveryExampleIsRead(t *testing.T) {
	for _, dir := range folders(t) {
		e, err := Load(dir)
		if err != nil {
			t.Error(err)
			continue
		}
		mode := strings.TrimPrefix(filepath.Base(dir), "rich-")
		if got := e.Pod.Metadata.Annotations["rich.cri-pouch.io/mode."+e.Pod.Spec.Containers[0].Name]; got != mode {
			t.Errorf("%s: the pod's mode is %q", dir, got)
		}
		if len(e.Image.Files) == 0 {
			t.Errorf("%s: nothing is copied into the image", dir)
		}
	}
}

// What the quickstart runs is what a user builds: the script takes release, packages and commands from the Dockerfile.
func TestTheQuickstartsImageIsThatOfTheDockerfile(t *testing.T) {
	install := regexp.MustCompile(`apt-get install((?: [^&]\S*)+)`)
	for _, dir := range folders(t) {
		out, err := exec.Command("../scripts/rich-images.sh", "--recipe", "example-"+strings.TrimPrefix(filepath.Base(dir), "rich-")).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v: %s", dir, err, out)
			continue
		}
		suite, rest, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
		packages, commands, _ := strings.Cut(rest, " ")
		text, err := os.ReadFile(filepath.Join(dir, "Dockerfile"))
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range instructions(string(text)) {
			switch instruction, what, _ := strings.Cut(line, " "); {
			case instruction == "FROM" && !strings.HasSuffix(what, ":"+suite):
				t.Errorf("%s: the quickstart's release is %s, not %s", dir, suite, what)
			case instruction == "RUN" && install.MatchString(what):
				words := strings.Fields(install.FindStringSubmatch(what)[1])
				words = slices.DeleteFunc(words, func(w string) bool { return strings.HasPrefix(w, "-") })
				if got := strings.Split(packages, ","); !slices.Equal(got, words) {
					t.Errorf("%s: the quickstart's packages are %q, not %q", dir, got, words)
				}
			case instruction == "RUN" && !strings.Contains(commands, strings.ReplaceAll(what, "'", `'\''`)):
				t.Errorf("%s: the quickstart does not run %q, but %q", dir, what, commands)
			}
		}
	}
}

func TestWhatIsNotKnownIsRefused(t *testing.T) {
	const (
		dockerfile = "FROM debian:bookworm\nCMD [\"true\"]\n"
		pod        = "kind: Pod\nmetadata: {name: p}\nspec:\n  containers: [{name: c}]\n"
	)
	tests := map[string]struct{ dockerfile, pod, want string }{
		"an instruction":          {dockerfile + "SHELL [\"bash\"]\n", pod, "SHELL"},
		"a copied file":           {dockerfile + "COPY a /a\n", pod, "only a folder"},
		"a folder that is absent": {dockerfile + "COPY a/ /\n", pod, "no such file"},
		"no command":              {"FROM debian:bookworm\n", pod, "no CMD"},
		"a command in shell form": {"FROM debian:bookworm\nCMD true\n", pod, "CMD true"},
		"a field":                 {dockerfile, strings.Replace(pod, "name: c", "name: c, tty: true", 1), "tty"},
		"a kind":                  {dockerfile, pod + "---\nkind: Secret\n", "Secret"},
		"two pods":                {dockerfile, pod + "---\n" + pod, "two pods"},
		"no pod":                  {dockerfile, "kind: ConfigMap\n", "no pod"},
		"a mount of no volume":    {dockerfile, strings.Replace(pod, "name: c", "name: c, volumeMounts: [{name: v, mountPath: /v}]", 1), "no volume v"},
		"a volume of no ConfigMap": {dockerfile, strings.Replace(pod, "spec:\n", "spec:\n  volumes: [{name: v, configMap: {name: m}}]\n", 1),
			"no ConfigMap m"},
		"broken YAML": {dockerfile, "kind: [", "pod.yaml"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, text := range map[string]string{"Dockerfile": test.dockerfile, "pod.yaml": test.pod} {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, wanted %q in it", err, test.want)
			}
		})
	}
}

func TestAPodIsMadeAsTheKubeletDoes(t *testing.T) {
	e, err := Load("../../examples/rich-systemd")
	if err != nil {
		t.Fatal(err)
	}
	n := &Node{Example: e, UID: "uid", Dir: t.TempDir(), LogDir: t.TempDir(), CgroupParent: "/parent"}
	if err := n.MakeVolumes(); err != nil {
		t.Fatal(err)
	}
	sandbox := n.Sandbox()
	c, err := n.Container(sandbox, e.Pod.Spec.Containers[0], 3)
	if err != nil {
		t.Fatal(err)
	}
	if sandbox.Metadata.Namespace != "default" || sandbox.Annotations["rich.cri-pouch.io/mode.web"] != "systemd" {
		t.Errorf("the sandbox is %v", sandbox)
	}
	if len(c.Command)+len(c.Args) != 0 || c.Metadata.Attempt != 3 || c.Linux.Resources.MemoryLimitInBytes != 512<<20 {
		t.Errorf("the container is %v", c)
	}
	readonly := map[string]bool{}
	for _, m := range c.Mounts {
		readonly[m.ContainerPath] = m.Readonly
	}
	if readonly["/var/lib/shop"] || !readonly["/etc/shop/keys"] || !readonly["/etc/shop/units"] {
		t.Errorf("read-only are %v", readonly)
	}
	if link, err := os.Readlink(filepath.Join(n.Volume("units"), "register.service")); err != nil || link != "..data/register.service" {
		t.Errorf("a ConfigMap's key is a link to %q: %v", link, err)
	}
	if b, err := os.ReadFile(filepath.Join(n.Volume("units"), "register.service")); err != nil || string(b) != e.ConfigMaps["shop-units"].Data["register.service"] {
		t.Errorf("it holds %q: %v", b, err)
	}
	broken := e.Pod.Spec.Containers[0]
	broken.Resources.Limits = map[string]string{"cpu": "1"}
	if _, err := n.Container(sandbox, broken, 0); err == nil {
		t.Error("a limit that is not memory is not an error")
	}
}
