package hooks

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cri-pouch/cri-pouch/internal/hookrun"
)

const goodNode = `{"version": "1.0.0", "hook": {"path": "/bin/true", "args": ["true", "a b"], "env": ["A=1=2", "B="], "timeout": 3},
 "when": {"always": true, "annotations": {"^k$": "v"}, "commands": ["x"], "hasBindMounts": true}, "stages": ["poststop", "prestart"]}`

func TestNodeFileIsReadAsItIsWritten(t *testing.T) {
	var f NodeFile
	if err := f.parse([]byte(goodNode)); err != nil {
		t.Fatal(err)
	}
	h := f.Hook
	if h.Path != "/bin/true" || len(h.Args) != 2 || h.Args[1] != "a b" || len(h.Env) != 2 || *h.Timeout != 3 {
		t.Errorf("%+v", h)
	}
	if len(f.Stages) != 2 || f.Stages[0] != hookrun.Poststop || f.Stages[1] != hookrun.Prestart {
		t.Errorf("%v", f.Stages)
	}
	if w := f.When; !*w.Always || !*w.HasBindMounts || len(w.Commands) != 1 || len(w.Annotations) != 1 || w.Annotations[0].Value != "v" {
		t.Errorf("%+v", w)
	}
}

func TestNodeFileNamesItsMistake(t *testing.T) {
	swap := func(old, with string) string {
		if !strings.Contains(goodNode, old) {
			t.Fatalf("%q is not there", old)
		}
		return strings.Replace(goodNode, old, with, 1)
	}
	many := func(n int, one string) string { return strings.TrimSuffix(strings.Repeat(one+",", n), ",") }
	for name, tc := range map[string]struct{ text, says string }{
		"empty":                         {"", "no JSON"},
		"null":                          {"null", "version"},
		"a list":                        {"[]", "no JSON"},
		"cut off":                       {goodNode[:50], "no JSON"},
		"something behind it":           {goodNode + "{}", "no JSON"},
		"another version":               {swap("1.0.0", "1.0.1"), `"1.0.1"`},
		"no version":                    {swap(`"version": "1.0.0", `, ""), "version"},
		"version is a number":           {swap(`"1.0.0"`, "1"), "version"},
		"unknown key":                   {swap(`"stages"`, `"stage"`), "stage"},
		"unknown condition":             {swap(`"commands"`, `"command"`), "command"},
		"unknown key of the hook":       {swap(`"args"`, `"arguments"`), "arguments"},
		"no path":                       {swap(`"path": "/bin/true", `, ""), "hook.path is missing"},
		"relative path":                 {swap("/bin/true", "true"), "not absolute"},
		"path that is not clean":        {swap("/bin/true", "/bin/../bin/true"), "not clean"},
		"NUL in the path":               {swap("/bin/true", `/bin/\u0000true`), "NUL"},
		"NUL in an argument":            {swap("a b", `a\u0000b`), "hook.args[1] holds a NUL"},
		"args are no list":              {swap(`["true", "a b"]`, `"true"`), "args"},
		"too many arguments":            {swap(`"true", "a b"`, many(65, `"a"`)), "at most 64"},
		"environment without =":         {swap("A=1=2", "A"), "hook.env[0]"},
		"environment of no name":        {swap("A=1=2", "=1"), "hook.env[0]"},
		"NUL in the environment":        {swap("B=", `B=\u0000`), "hook.env[1]"},
		"too much environment":          {swap(`"A=1=2", "B="`, many(129, `"A=1"`)), "at most 128"},
		"timeout 0":                     {swap(`"timeout": 3`, `"timeout": 0`), "hook.timeout is 0"},
		"negative timeout":              {swap(`"timeout": 3`, `"timeout": -1`), "hook.timeout is -1"},
		"timeout with a fraction":       {swap(`"timeout": 3`, `"timeout": 1.5`), "timeout"},
		"timeout beyond numbers":        {swap(`"timeout": 3`, `"timeout": 1e99`), "timeout"},
		"no stages":                     {swap(`["poststop", "prestart"]`, `[]`), "stages is missing or empty"},
		"stages null":                   {swap(`["poststop", "prestart"]`, `null`), "stages is missing or empty"},
		"unknown stage":                 {swap(`"prestart"`, `"postStart"`), "stages[1]"},
		"a stage twice":                 {swap(`"prestart"`, `"poststop"`), "twice"},
		"no condition":                  {swap(`"always": true, "annotations": {"^k$": "v"}, "commands": ["x"], "hasBindMounts": true`, ""), "no condition"},
		"empty annotations":             {swap(`{"^k$": "v"}`, `{}`), "when.annotations is empty"},
		"empty commands":                {swap(`["x"]`, `[]`), "when.commands is empty"},
		"always is a word":              {swap(`"always": true`, `"always": "true"`), "always"},
		"bad pattern of a command":      {swap(`["x"]`, `["x", "["]`), "when.commands[1]"},
		"bad pattern of a key":          {swap(`"^k$"`, `"*"`), "when.annotations: key"},
		"bad pattern of a value":        {swap(`"v"`, `"(?<"`), "value of"},
		"pattern that repeats too much": {swap(`["x"]`, `["(x{1000}){1000}"]`), "when.commands[0]"},
		"long pattern":                  {swap(`["x"]`, `["`+strings.Repeat("x", 1025)+`"]`), "more than 1024 bytes"},
		"too many patterns":             {swap(`["x"]`, "["+many(65, `"x"`)+"]"), "more than 64 patterns"},
	} {
		t.Run(name, func(t *testing.T) {
			var f NodeFile
			if err := f.parse([]byte(tc.text)); err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%v, want %q in it", err, tc.says)
			}
		})
	}
}

func TestOnlyFilesOfRootAloneAreRead(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: files are to have other owners")
	}
	dir := t.TempDir()
	file := func(name string, mode os.FileMode, uid int) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(goodNode), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, uid, 0); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	link := func(name, to string) string {
		path := filepath.Join(dir, name)
		if err := os.Symlink(to, path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for path, says := range map[string]string{
		file("good", 0o644, 0):                             "",
		file("secret", 0o400, 0):                           "",
		file("group", 0o664, 0):                            "chmod go-w",
		file("all", 0o646, 0):                              "chmod go-w",
		file("user", 0o600, 1000):                          "belongs to user 1000",
		link("to-good", filepath.Join(dir, "good")):        "",
		link("to-user", filepath.Join(dir, "user")):        "belongs to user 1000",
		link("to-nothing", filepath.Join(dir, "nothing")):  "no such file",
		link("to-itself", filepath.Join(dir, "to-itself")): "too many levels",
		dir: "no regular file",
	} {
		f := readNodeFile(path)
		if (says == "") != (f.Err == nil) || f.Err != nil && !strings.Contains(f.Err.Error(), says) {
			t.Errorf("%s: %v, want %q", path, f.Err, says)
		}
	}
}

// A program is root's only if nobody else can put another in its place.
func TestTheWayToAProgramHasToBeRoots(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: folders are to have other owners")
	}
	top := t.TempDir()
	folder := func(name string, mode os.FileMode, uid int) string {
		dir := filepath.Join(top, name)
		if err := os.MkdirAll(filepath.Join(dir, "below"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "below", "hook"), nil, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(dir, uid, 0); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		return filepath.Join(dir, "below", "hook")
	}
	link := func(name, to string) string {
		path := filepath.Join(top, name)
		if err := os.Symlink(to, path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	users := folder("users", 0o755, 1000)
	for path, good := range map[string]bool{
		folder("roots", 0o755, 0):                         true,
		folder("sticky", 0o777|os.ModeSticky, 0):          true,
		folder("open", 0o777, 0):                          false,
		folder("users-sticky", 0o777|os.ModeSticky, 1000): false,
		users:                   false,
		link("to-users", users): false,
		link("to-roots", filepath.Join(top, "roots/below/hook")): true,
	} {
		f := NodeFile{Stages: []hookrun.Stage{hookrun.Prestart}}
		f.Hook.Path = path
		if err := f.checkProgram(); (err == nil) != good {
			t.Errorf("%s: %v", path, err)
		}
	}
	inside := NodeFile{Stages: []hookrun.Stage{hookrun.StartContainer}}
	inside.Hook.Path = users
	if err := inside.checkProgram(); err != nil {
		t.Errorf("the path of a startContainer hook is not the node's: %v", err)
	}
}

func TestNodeFoldersAreReadInTheirOrder(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: only root's files are read")
	}
	first, second, open := t.TempDir(), t.TempDir(), t.TempDir()
	for _, path := range []string{
		first + "/b.json", first + "/c.json", first + "/.hidden.json", first + "/none.txt", first + "/d.JSON",
		second + "/C.json", second + "/b.json", second + "/a.json", open + "/z.json",
	} {
		if err := os.WriteFile(path, []byte(goodNode), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range readNodeDirs([]string{first, filepath.Join(first, "absent"), second, open}) {
		got = append(got, fmt.Sprint(f.Path, " ", f.Err == nil))
	}
	want := []string{second + "/a.json true", second + "/b.json true", second + "/C.json true", first + "/c.json true", open + " false"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestTooManyNodeFilesAreReported(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: only root's files are read")
	}
	dir := t.TempDir()
	for i := range nodeFilesMax + 5 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%03d.json", i)), []byte(goodNode), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	files := readNodeDirs([]string{dir})
	if last := files[len(files)-1]; len(files) != nodeFilesMax+1 || last.Err == nil || last.Name() != "256.json" {
		t.Errorf("%d files, the last is %s: %v", len(files), last.Path, last.Err)
	}
}

func FuzzNodeFile(f *testing.F) {
	f.Add([]byte(goodNode))
	f.Add([]byte(`{"version":"1.0.0","when":{"annotations":{"":""}}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var n NodeFile
		if err := n.parse(text); err != nil {
			return
		}
		if !filepath.IsAbs(n.Hook.Path) || len(n.Stages) == 0 {
			t.Errorf("%+v", n)
		}
		n.When.matches(NodeSubject{Annotations: map[string]string{"k": "v"}, Commands: []string{"x"}})
	})
}
