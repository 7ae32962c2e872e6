package rules

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/cri-pouch/cri-pouch/"

// goPackage is what `go list -json` says of a package.
type goPackage struct {
	ImportPath, Name, Dir, Doc string
	GoFiles, CgoFiles          []string
	Imports, Deps              []string
}

// room is the package's path inside the module, as "cri/spec".
func (p goPackage) room() string { return strings.TrimPrefix(p.ImportPath+"/", module) }

// nested are the modules inside this one that have packages of their own.
var nested = []string{"integration/kubelet"}

// listPackages lists the packages of this module, with what they import.
func listPackages(t *testing.T) []goPackage {
	t.Helper()
	packages := goList(t, "../..", "-json=ImportPath,Name,Dir,Doc,GoFiles,CgoFiles,Imports,Deps")
	if len(packages) < 10 {
		t.Fatalf("go list gives %d packages only", len(packages))
	}
	return packages
}

// listAllPackages lists the packages of the nested modules too; what those import is not looked up, which would need all
// their modules.
func listAllPackages(t *testing.T) []goPackage {
	t.Helper()
	packages := listPackages(t)
	for _, dir := range nested {
		more := goList(t, filepath.Join("../..", dir), "-find", "-json=ImportPath,Name,Dir,Doc,GoFiles,CgoFiles")
		if len(more) == 0 {
			t.Fatalf("go list gives no package of module %s", dir)
		}
		packages = append(packages, more...)
	}
	return packages
}

func goList(t *testing.T, dir string, arguments ...string) []goPackage {
	t.Helper()
	cmd := exec.Command("go", slices.Concat([]string{"list", "-tags", "seccomp netgo osusergo"}, arguments, []string{"./..."})...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list in %s: %v", dir, err)
	}
	var packages []goPackage
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
	return packages
}

// mayImport says for each room which others it may import, besides internal/ and itself. The daemon reaches containers
// through the types of shim/task; only server, which wires everything, knows shim/client.
var mayImport = map[string][]string{
	"cmd/cri-pouch":                {"server", "cri/api"},
	"cmd/containerd-shim-pouch-v2": {"shim"},
	"server":                       {"cri", "cri/api", "snapshot", "network", "richcontainer", "hooks", "engine", "shim/client", "shim/task"},
	"cri/api":                      {},
	"cri":                          {"snapshot", "network", "richcontainer", "hooks", "cri/api", "shim/task"},
	"snapshot":                     {"engine"},
	"network":                      {},
	"richcontainer":                {},
	"hooks":                        {},
	"engine":                       {},
	"shim/task":                    {},
	"shim/api":                     {},
	"shim/client":                  {"shim/api", "shim/task"},
	"shim":                         {"shim/api", "shim/task"},
	"internal":                     {},
}

// roomOf gives the longest key of mayImport that room lies in.
func roomOf(room string) (string, bool) {
	best := ""
	for key := range mayImport {
		if strings.HasPrefix(room, key+"/") && len(key) > len(best) {
			best = key
		}
	}
	return best, best != ""
}

func TestImportsPointDownwardsOnly(t *testing.T) {
	for _, p := range listPackages(t) {
		if strings.HasPrefix(p.room(), "integration/") {
			continue
		}
		own, ok := roomOf(p.room())
		if !ok {
			t.Errorf("package %s stands in no room of the design: add it to mayImport", p.room())
			continue
		}
		for _, imported := range p.Imports {
			if !strings.HasPrefix(imported, module) {
				continue
			}
			target := strings.TrimPrefix(imported+"/", module)
			room, ok := roomOf(target)
			if !ok {
				t.Errorf("%s imports %s, which is for tests", p.room(), target)
			} else if room != own && room != "internal" && !slices.Contains(mayImport[own], room) {
				t.Errorf("%s imports %s: room %s may import %v only", p.room(), target, own, mayImport[own])
			}
		}
	}
}

// A shim is re-executed for each container: everything that it links is paid for at every start and in every idle node.
func TestTheShimKnowsNothingOfTheDaemon(t *testing.T) {
	forbidden := regexp.MustCompile(`^(k8s\.io/|google\.golang\.org/grpc$|github\.com/containerd/containerd/v2/|go\.etcd\.io/|github\.com/prometheus/|github\.com/spf13/|github\.com/containerd/go-cni|net/http$)`)
	found := false
	for _, p := range listPackages(t) {
		if p.room() != "cmd/containerd-shim-pouch-v2/" {
			continue
		}
		found = true
		for _, dep := range p.Deps {
			if forbidden.MatchString(dep) {
				t.Errorf("the shim links %s", dep)
			}
			if room := strings.TrimPrefix(dep+"/", module); room != dep+"/" {
				if own, _ := roomOf(room); own == "shim/client" || (own != "internal" && own != "shim" && own != "shim/api" && own != "shim/task") {
					t.Errorf("the shim links the daemon's %s", room)
				}
			}
		}
	}
	if !found {
		t.Error("cmd/containerd-shim-pouch-v2 is not there")
	}
}

func TestRoomsKnowNoCRI(t *testing.T) {
	for _, p := range listPackages(t) {
		room := p.room()
		if strings.HasPrefix(room, "cri/") && room != "cri/model/" || strings.HasPrefix(room, "integration/") || strings.HasPrefix(room, "cmd/cri-pouch/") ||
			strings.HasPrefix(room, "server/") {
			continue // the edge, its clients, and the one who registers the services
		}
		for _, imported := range p.Imports {
			if strings.HasPrefix(imported, "k8s.io/cri-api") {
				t.Errorf("%s imports %s: CRI messages are converted in cri/ and never stored", room, imported)
			}
			if imported == "google.golang.org/grpc" && !strings.HasPrefix(room, "shim/") {
				t.Errorf("%s imports gRPC", room)
			}
		}
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	for _, p := range listAllPackages(t) {
		if len(p.GoFiles)+len(p.CgoFiles) > 0 && strings.TrimSpace(p.Doc) == "" && !allGenerated(t, p) {
			t.Errorf("package %s has no package comment", p.room())
		}
	}
}

func allGenerated(t *testing.T, p goPackage) bool {
	t.Helper()
	for _, f := range p.GoFiles {
		if !ast.IsGenerated(parse(t, filepath.Join(p.Dir, f))) {
			return false
		}
	}
	return true
}

func parse(t *testing.T, file string) *ast.File {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// sources walks the repository's files that are kept in git or could be.
func sources(t *testing.T, fn func(name string)) {
	t.Helper()
	err := filepath.WalkDir("../..", func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel("../..", name)
		if e.IsDir() && (rel == ".git" || rel == "bin" || rel == "build") {
			return fs.SkipDir
		}
		if !e.IsDir() {
			fn(rel)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestNoPackageIsADrawer(t *testing.T) {
	drawers := []string{"util", "utils", "common", "helper", "helpers", "misc", "shared"}
	for _, p := range listAllPackages(t) {
		if slices.Contains(drawers, p.Name) || slices.Contains(drawers, path.Base(p.room())) {
			t.Errorf("package %s: name it after what it is", p.room())
		}
	}
}

// Work in init() happens in every program that links the package, in an order that nobody chose.
func TestNoInitFunctions(t *testing.T) {
	sources(t, func(name string) {
		if !strings.HasSuffix(name, ".go") {
			return
		}
		// libcontainer wants its main thread before main() runs, and registers its cgroup code by import.
		if strings.HasPrefix(name, "cmd/containerd-shim-pouch-v2/") || strings.HasPrefix(name, "shim/") {
			return
		}
		f := parse(t, filepath.Join("../..", name))
		if ast.IsGenerated(f) {
			return
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s has a func init()", name)
			}
		}
	})
}

// A file answers one question. The limit leaves room for tables of tests.
func TestFilesStaySmall(t *testing.T) {
	sources(t, func(name string) {
		limit := 450
		if strings.HasSuffix(name, "_test.go") {
			limit = 700
		}
		if !strings.HasSuffix(name, ".go") {
			return
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, filepath.Join("../..", name), nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		if lines := fset.File(f.Pos()).LineCount(); lines > limit && !ast.IsGenerated(f) {
			t.Errorf("%s has %d lines, %d are enough", name, lines, limit)
		}
	})
}

// Each failpoint is hit by a test, or stands here with the reason why it need not be.
func TestEveryFailpointIsTested(t *testing.T) {
	called := regexp.MustCompile(`failpoint\.Hit\("([^"]+)"\)`)
	tests := ""
	var names []string
	sources(t, func(name string) {
		if !strings.HasSuffix(name, ".go") {
			return
		}
		b, err := os.ReadFile(filepath.Join("../..", name))
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, "_test.go") {
			tests += string(b)
			return
		}
		for _, m := range called.FindAllSubmatch(b, -1) {
			names = append(names, string(m[1]))
		}
	})
	if len(names) == 0 {
		t.Fatal("no failpoint found")
	}
	for _, name := range names {
		if !strings.Contains(tests, `"`+name+`"`) {
			t.Errorf("no test kills the daemon at %s", name)
		}
	}
}
