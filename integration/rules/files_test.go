package rules

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// inPlace are the files, or folders, that may write a file at its own name, with the reason.
var inPlace = map[string]string{
	"internal/cgrouptree/":               "files of the kernel's",
	"shim/oom_news.go":                   "a file of the kernel's",
	"shim/program.go":                    "a file of the kernel's",
	"shim/rich_cgroup.go":                "files of the kernel's",
	"shim/rich_scope.go":                 "a file of the kernel's",
	"shim/update.go":                     "a file of the kernel's",
	"shim/create.go":                     "the mark, which is empty",
	"cri/container_hooks.go":             "the place of a mount, which is empty",
	"richcontainer/files.go":             "in a folder that nobody reads before it is complete, and that is made once",
	"snapshot/volume_make.go":            "in a folder that gets its name when it is complete and synced",
	"internal/failpoint/failpoint_on.go": "it is no product",
}

// A file that is written at its own name is half a file after a death, and none after ENOSPC.
func TestFilesAreReplacedAsAWhole(t *testing.T) {
	used := map[string]bool{}
	sources(t, func(name string) {
		inRoom := slices.ContainsFunc(guardedRooms, func(room string) bool { return strings.HasPrefix(name, room) })
		if !inRoom || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, filepath.Join("../..", name), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, pos := range truncating(f) {
			may := false
			for allowed := range inPlace {
				if name == allowed || strings.HasSuffix(allowed, "/") && strings.HasPrefix(name, allowed) {
					used[allowed], may = true, true
				}
			}
			if !may {
				t.Errorf("%s: use atomicfile.Write", fset.Position(pos))
			}
		}
	})
	for allowed := range inPlace {
		if !used[allowed] {
			t.Errorf("%s writes no file any more: take it off the list", allowed)
		}
	}
}

// truncating finds calls of os.WriteFile and os.Create, and O_TRUNC.
func truncating(f *ast.File) (found []token.Pos) {
	ast.Inspect(f, func(n ast.Node) bool {
		s, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		of, name := selector(s)
		if of == "os" && (name == "WriteFile" || name == "Create") || name == "O_TRUNC" {
			found = append(found, n.Pos())
		}
		return true
	})
	return found
}
