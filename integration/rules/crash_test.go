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

// guardedRooms run in the shim or in the daemon. The programs' own main packages are left out: what panics there is the
// process's business, as are the client commands.
var guardedRooms = []string{"cri/", "engine/", "hooks/", "internal/", "network/", "richcontainer/", "server/", "shim/", "snapshot/"}

// bareRoutines are the files that may start routines by themselves, with the reason.
var bareRoutines = map[string]string{
	"internal/crash/crash.go": "it is the one place where routines are started",
}

// A panic in a routine that nobody guards ends the process, and with it all pods of the node.
func TestEveryRoutineIsGuarded(t *testing.T) {
	files := 0
	sources(t, func(name string) {
		inRoom := slices.ContainsFunc(guardedRooms, func(room string) bool { return strings.HasPrefix(name, room) })
		if !inRoom || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return
		}
		if _, may := bareRoutines[name]; may {
			return
		}
		files++
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, filepath.Join("../..", name), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, pos := range unguarded(f) {
			t.Errorf("%s: start it by crash.Go, or give it crash.Guard, GuardError or Keep", fset.Position(pos))
		}
	})
	if files < 100 {
		t.Errorf("only %d files were looked at", files)
	}
}

func TestUnguardedRoutinesAreFound(t *testing.T) {
	const source = `package p
func f() {
	go work()
	wg.Go(work)
	time.AfterFunc(limit, func() {})
	context.AfterFunc(ctx, work)
	crash.Go(log, "", work)
	wg.Go(crash.Guard(log, "", work))
	group.Go(crash.GuardError(log, "", try))
	wg.Go(crash.Keep(ctx, log, "", work))
	time.AfterFunc(limit, crash.Guard(log, "", work))
	context.AfterFunc(ctx, cancel)
}`
	f, err := parser.ParseFile(token.NewFileSet(), "p.go", source, 0)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(unguarded(f)); n != 4 {
		t.Errorf("%d are found, 4 are there", n)
	}
}

// recoverers are the files that may call recover, with the reason. All others go through package crash, which keeps the stack and counts.
var recoverers = map[string]string{
	"internal/crash/crash.go": "it is the one place where panics are turned into errors",
	"engine/bolt.go":          "bbolt panics over a damaged database, which is no defect of ours",
}

func TestPanicsAreCaughtInOneWay(t *testing.T) {
	sources(t, func(name string) {
		inRoom := slices.ContainsFunc(guardedRooms, func(room string) bool { return strings.HasPrefix(name, room) })
		if _, may := recoverers[name]; may || !inRoom || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, filepath.Join("../..", name), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				if fn, ok := call.Fun.(*ast.Ident); ok && fn.Name == "recover" {
					t.Errorf("%s: use crash.Try, or defer crash.Catch", fset.Position(call.Pos()))
				}
			}
			return true
		})
	})
}

// unguarded finds go statements, and what a WaitGroup, an errgroup or a timer starts without a guard.
func unguarded(f *ast.File) (found []token.Pos) {
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			found = append(found, n.Pos())
		case *ast.CallExpr:
			of, name := selector(n.Fun)
			if of != "crash" && (name == "Go" || name == "AfterFunc") && len(n.Args) > 0 && !guarded(n.Args[len(n.Args)-1]) {
				found = append(found, n.Pos())
			}
		}
		return true
	})
	return found
}

// guarded reports whether a function cannot panic: a context's cancel runs none of our code.
func guarded(fn ast.Expr) bool {
	switch fn := fn.(type) {
	case *ast.Ident:
		return fn.Name == "cancel"
	case *ast.CallExpr:
		of, name := selector(fn.Fun)
		return of == "crash" && slices.Contains([]string{"Guard", "GuardError", "Keep"}, name)
	}
	return false
}

func selector(fn ast.Expr) (of, name string) {
	s, ok := fn.(*ast.SelectorExpr)
	if !ok {
		return "", ""
	}
	if x, ok := s.X.(*ast.Ident); ok {
		of = x.Name
	}
	return of, s.Sel.Name
}
