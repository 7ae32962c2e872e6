package server

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"
)

var update = flag.Bool("update", false, "rewrite docs/config.md and deploy/config.toml from the keys")

// writeConfig writes files (name → content) into a folder and gives the path of its config.toml.
func writeConfig(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "config.toml")
}

func TestLoadOrder(t *testing.T) {
	file := writeConfig(t, map[string]string{
		"config.toml":           "root = '/a'\nstate = '/s'\n[images]\nunpack_concurrency = 7\npinned = ['x:1', 'y:1']\n[log]\nlevel='warn'",
		"config.d/20-b.toml":    "root = '/c'\nimages.pinned = ['z:1']",
		"config.d/10-a.toml":    "root = '/b'\nlog = { level = 'debug' }\n[cri]\ndrain_timeout = '3s'",
		"config.d/readme.txt":   "not toml",
		"config.d/.hidden.toml": "nonsense",
	})
	c, err := Load(file, Override{Path: "state", Flag: "state", Values: []string{"/flag"}},
		Override{Path: "network.cni_bin_dirs", Flag: "cni-bin-dir", Values: []string{"/x", "/y"}})
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Root, want.State, want.Log.Level = "/c", "/flag", "debug"
	want.CRI.DrainTimeout = Duration(3 * time.Second)
	want.Images.UnpackConcurrency, want.Images.Pinned = 7, []string{"z:1"}
	want.Network.CNIBinDirs = []string{"/x", "/y"}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
	if got := c.SocketPath(); got != "/flag/cri-pouch.sock" {
		t.Errorf("socket %s does not follow the state folder", got)
	}
	if got := c.CNICachePath(); got != "/c/cni" {
		t.Errorf("CNI cache %s does not follow the root", got)
	}
}

func TestLoadRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		content string
		want    []string // parts of the message, after the file's path
	}{
		"an unknown key":                {"root = '/a'\n\nrooot = '/b'", []string{":3: unknown key rooot, did you mean root?"}},
		"an unknown table":              {"[network]\ncni_conf_dir='/x'\n[netwrok]\na = 1", []string{":3: unknown key netwrok"}},
		"a key of another table":        {"registry_config_dir = '/x'", []string{":1: unknown key registry_config_dir, did you mean images.registry_config_dir?"}},
		"an unknown key inline":         {"log = { level = 'info',\n  colour = 'red' }", []string{":2: unknown key log.colour"}},
		"an unknown dotted key":         {"log.colour = 1", []string{":1: unknown key log.colour"}},
		"an array of tables":            {"[[log]]\nlevel = 'info'", []string{":1: log is a list of tables, it must be a table"}},
		"a number for a string":         {"\nroot = 5", []string{":2: root is an integer, it must be a string"}},
		"a string for a number":         {"[images]\nunpack_concurrency = '2'", []string{":2: images.unpack_concurrency is a string, it must be an integer"}},
		"a string for a list":           {"[images]\n# c\npinned = 'x'", []string{":3: images.pinned is a string, it must be a list of strings"}},
		"numbers in a list":             {"images.pinned = ['x', 1]", []string{":1: images.pinned holds an integer, it must be a list of strings"}},
		"a value for a table":           {"log = 'info'", []string{":1: log is a string, it must be a table"}},
		"a table for a value":           {"[root]\nx = 1", []string{":1: root is a table, it must be a string"}},
		"a number for a duration":       {"[cri]\ndrain_timeout = 10", []string{`:2: cri.drain_timeout is an integer, it must be a duration as in "30s"`}},
		"a float":                       {"[images]\nunpack_concurrency = 1.5", []string{":2: images.unpack_concurrency is a float"}},
		"a bad duration":                {"[cri]\n\ndrain_timeout = 'soon'", []string{":3: ", `"soon" is no duration`}},
		"a number beyond int":           {"[images]\nunpack_concurrency = 99999999999999999999", []string{":2: "}},
		"a key that stands there twice": {"root = '/a'\nroot = '/b'", []string{":2: "}},
		"a syntax error":                {"root = '/a'\nstate = ", []string{":2: "}},
		"bytes that are no text":        {"root = '/a'\nstate = '\xff\xfe'", []string{":2: "}},
		"a relative root":               {"root = 'a'", []string{":1: root: ", "relative"}},
		"an unclean path":               {"[network]\ncni_conf_dir = '/a/../b'", []string{":2: network.cni_conf_dir: ", `write "/b"`}},
		"a root of the system's":        {"root = '/var/lib'", []string{":1: root: ", "belongs to the system"}},
		"state in root":                 {"state = '/var/lib/cri-pouch/state'", []string{":1: state: ", "keep them apart"}},
		"an unknown level":              {"log.level = 'loud'", []string{":1: log.level: ", `"loud" is none of error, warn`}},
		"an unknown driver":             {"[runtime]\ncgroup_driver = 'cgroup'", []string{":2: runtime.cgroup_driver: "}},
		"no plugins at all":             {"network.cni_bin_dirs = []", []string{":1: network.cni_bin_dirs: ", "empty"}},
		"a concurrency of none":         {"images.max_concurrent_downloads = 0", []string{":1: images.max_concurrent_downloads: 0 is out of range, give 1 to 64"}},
		"a negative duration":           {"cri.drain_timeout = '-1s'", []string{":1: cri.drain_timeout: -1s is out of range"}},
		"a broken reference":            {"images.pinned = ['UPPER CASE']", []string{":1: images.pinned: ", "no image reference"}},
		"a handler with a slash":        {"runtime.handlers = ['../x']", []string{":1: runtime.handlers: "}},
		"a handler twice":               {"runtime.handlers = ['runc', 'runc']", []string{":1: runtime.handlers: ", "twice"}},
		"a mode for nobody":             {"rich.handlers = ['vm=systemd']", []string{":1: rich.handlers: ", "add it to runtime.handlers"}},
		"a handler of no mode":          {"runtime.handlers = ['vm']\nrich.handlers = ['vm=upstart']", []string{":2: rich.handlers: ", "systemd, sbin-init, dumb-init, none"}},
		"a handler without a mode":      {"runtime.handlers = ['vm']\nrich.handlers = ['vm']", []string{":2: rich.handlers: ", "HANDLER=MODE"}},
		"two modes for a handler":       {"runtime.handlers = ['vm']\nrich.handlers = ['vm=systemd', 'vm=none']", []string{":2: rich.handlers: ", "twice"}},
		"root for a handler of nobody":  {"rich.root_handlers = ['vm']", []string{":1: rich.root_handlers: ", "add it to runtime.handlers"}},
		"root for what is no namespace": {"rich.root_namespaces = ['*']", []string{":1: rich.root_namespaces: ", "no DNS label"}},
		"an address without port":       {"metrics.address = 'localhost'", []string{":1: metrics.address: "}},
		"profiles for everybody":        {"metrics.address = '0.0.0.0:1'\nmetrics.pprof = true", []string{":2: metrics.pprof: ", "loopback"}},
		"profiles without address":      {"metrics.pprof = true", []string{":1: metrics.pprof: ", "needs metrics.address"}},
		"a socket that is too long":     {"cri.socket = '/" + strings.Repeat("x", 107) + "'", []string{":1: cri.socket: ", "at most 107"}},
		"two mistakes at once":          {"a = 1\nb = 2", []string{":1: unknown key a", ":2: unknown key b"}},
	} {
		t.Run(name, func(t *testing.T) {
			file := writeConfig(t, map[string]string{"config.toml": tc.content})
			_, err := Load(file)
			if err == nil {
				t.Fatal("it was taken")
			}
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("class is not InvalidArgument: %v", err)
			}
			got := strings.ReplaceAll(err.Error(), file, "")
			for _, w := range tc.want {
				if !strings.Contains(got, w) {
					t.Errorf("got %q, want it to hold %q", got, w)
				}
			}
		})
	}
}

func TestLoadNamesTheDropIn(t *testing.T) {
	file := writeConfig(t, map[string]string{"config.toml": "", "config.d/50-x.toml": "\n\n[log]\nlevel = 'loud'"})
	_, err := Load(file)
	if want := filepath.Join(filepath.Dir(file), "config.d/50-x.toml") + ":4: log.level: "; err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %v, want it to begin with %s", err, want)
	}
	_, err = Load(file, Override{Path: "log.level", Flag: "log-level", Values: []string{"shout"}})
	if want := "--log-level: log.level: "; err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %v, want it to blame the flag", err)
	}
}

func TestLoadOfMissingFile(t *testing.T) {
	_, err := Load(filepath.Join(t.TempDir(), "none.toml"))
	if err == nil || !strings.Contains(err.Error(), "none.toml") || !strings.Contains(err.Error(), "config default") {
		t.Errorf("got %v, want the path and the fix", err)
	}
}

func TestLoadOfLargeFile(t *testing.T) {
	file := writeConfig(t, map[string]string{"config.toml": strings.Repeat("#", maxConfigSize+1)})
	if _, err := Load(file); !errdefs.IsInvalidArgument(err) {
		t.Errorf("got %v", err)
	}
}

// leaves gives the paths of all values in t.
func leaves(t reflect.Type, prefix string) (paths []string) {
	for f := range t.Fields() {
		path := join(prefix, f.Tag.Get("toml"))
		if f.Type.Kind() == reflect.Struct {
			paths = append(paths, leaves(f.Type, path)...)
			continue
		}
		paths = append(paths, path)
	}
	return paths
}

func TestEveryKeyIsDescribed(t *testing.T) {
	var described []string
	flags := map[string]bool{}
	for _, k := range Keys() {
		described = append(described, k.Path)
		if len(k.Doc) < 20 || !strings.HasSuffix(k.Doc, ".") && !strings.HasSuffix(k.Doc, "].") {
			t.Errorf("%s is not documented: %q", k.Path, k.Doc)
		}
		if k.check == nil {
			t.Errorf("%s is not checked", k.Path)
		}
		if k.Flag != "" && flags[k.Flag] {
			t.Errorf("flag --%s is there twice", k.Flag)
		}
		flags[k.Flag] = true
	}
	fields := leaves(reflect.TypeFor[Config](), "")
	slices.Sort(fields)
	slices.Sort(described)
	if !slices.Equal(fields, described) {
		t.Errorf("fields    %v\ndescribed %v", fields, described)
	}
}

func TestDefaultFileIsTheDefault(t *testing.T) {
	var b bytes.Buffer
	if err := Default().WriteTOML(&b); err != nil {
		t.Fatal(err)
	}
	c, err := Load(writeConfig(t, map[string]string{"config.toml": b.String()}))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(c, Default()) {
		t.Errorf("got %+v\nwant %+v", c, Default())
	}
	compareFile(t, "../deploy/config.toml", b.String())
}

func TestQuoting(t *testing.T) {
	c := Default()
	c.Runtime.SeccompRoot = "a\"b\\c\nd\x7fé"
	s, err := c.tomlValue("runtime.seccomp_root")
	if err != nil {
		t.Fatal(err)
	}
	var back struct{ V string }
	if err := toml.Unmarshal([]byte("V = "+s), &back); err != nil || back.V != c.Runtime.SeccompRoot {
		t.Errorf("%s reads as %q, %v", s, back.V, err)
	}
}

func TestDocumentationHoldsEveryKey(t *testing.T) {
	const begin, end = "<!-- keys: begin -->\n", "<!-- keys: end -->"
	const path = "../docs/config.md"
	doc, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok1 := strings.Cut(string(doc), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		t.Fatalf("%s has lost its markers", path)
	}
	var table bytes.Buffer
	if err := WriteReference(&table); err != nil {
		t.Fatal(err)
	}
	compareFile(t, path, head+begin+table.String()+end+tail)
}

// compareFile compares a file of the repository with what it should hold; -update writes it.
func compareFile(t *testing.T, path, want string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is not up to date, run `go test ./server -update`", path)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add("root = '/a'\n[log]\nlevel = 'info'")
	f.Add("log = { level = 'x' }\n[[images]]\npinned = [1, ['a']]")
	f.Fuzz(func(t *testing.T, doc string) {
		// It may refuse anything, but must neither panic nor take what is invalid.
		c, err := Load(writeConfig(t, map[string]string{"config.toml": doc}))
		if err != nil {
			return
		}
		if mistakes := c.check(nil); mistakes != nil {
			t.Errorf("taken with mistakes: %v", mistakes)
		}
	})
}
