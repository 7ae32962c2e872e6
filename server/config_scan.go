package server

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// scanned is one key of a file. The decoder knows lines as well, but only for what it refuses; a check that fails later
// needs them too, and the user wants the key's name and not that of a Go type.
type scanned struct {
	path string
	line int
	kind unstable.Kind
	// elem is the first kind in an array that is not String; Invalid for none.
	elem unstable.Kind
}

// scanKeys lists the keys of a document in order. Its error is the parser's (*toml.DecodeError where there is a place).
func scanKeys(doc []byte) ([]scanned, error) {
	var p unstable.Parser
	p.Reset(doc)
	var keys []scanned
	table := ""
	for p.NextExpression() {
		switch n := p.Expression(); n.Kind {
		case unstable.Table, unstable.ArrayTable:
			path, line := dotted(&p, n.Key())
			keys = append(keys, scanned{path: path, line: line, kind: n.Kind})
			table = path
		case unstable.KeyValue:
			keys = scanValue(&p, table, n, keys)
		}
	}
	if p.Error() != nil {
		// Only the decoder turns the parser's highlight into a line.
		if err := toml.Unmarshal(doc, new(map[string]any)); err != nil {
			return nil, err
		}
		return nil, p.Error()
	}
	return keys, nil
}

// scanValue adds a key and, for an inline table, what stands in it.
func scanValue(p *unstable.Parser, prefix string, n *unstable.Node, keys []scanned) []scanned {
	path, line := dotted(p, n.Key())
	k := scanned{path: join(prefix, path), line: line, kind: n.Value().Kind}
	if k.kind == unstable.InlineTable {
		keys = append(keys, scanned{path: k.path, line: line, kind: unstable.Table})
		for it := n.Value().Children(); it.Next(); {
			keys = scanValue(p, k.path, it.Node(), keys)
		}
		return keys
	}
	if k.kind == unstable.Array {
		for it := n.Value().Children(); it.Next(); {
			if e := it.Node().Kind; e != unstable.String && e != unstable.Comment && k.elem == unstable.Invalid {
				k.elem = e
			}
		}
	}
	return append(keys, k)
}

func dotted(p *unstable.Parser, it unstable.Iterator) (path string, line int) {
	for it.Next() {
		if line == 0 {
			line = p.Shape(it.Node().Raw).Start.Line
		}
		path = join(path, string(it.Node().Data))
	}
	return path, line
}

func join(prefix, name string) string {
	if prefix == "" {
		return name
	}
	return prefix + "." + name
}

// fits says whether there is such a key and whether the value has its type.
func (k scanned) fits() error {
	v, ok := new(Config).field(k.path)
	if !ok {
		return fmt.Errorf("unknown key %s%s", k.path, guess(k.path))
	}
	want, good := typeName(v), false
	switch k.kind {
	case unstable.Table:
		good = v.Kind() == reflect.Struct
	case unstable.String:
		good = v.Kind() == reflect.String || v.Type() == reflect.TypeFor[Duration]() || v.Type() == reflect.TypeFor[Size]()
	case unstable.Integer:
		good = v.Kind() == reflect.Int
	case unstable.Bool:
		good = v.Kind() == reflect.Bool
	case unstable.Array:
		good = v.Kind() == reflect.Slice
		if good && k.elem != unstable.Invalid {
			return fmt.Errorf("%s holds %s, it must be %s", k.path, article(k.elem), want)
		}
	}
	if !good {
		return fmt.Errorf("%s is %s, it must be %s", k.path, article(k.kind), want)
	}
	return nil
}

// typeName says what a key takes.
func typeName(v reflect.Value) string {
	switch v.Interface().(type) {
	case string:
		return "a string"
	case []string:
		return "a list of strings"
	case int:
		return "an integer"
	case bool:
		return "true or false"
	case Duration:
		return `a duration as in "30s"`
	case Size:
		return `a size as in "1GiB"`
	}
	return "a table"
}

func article(k unstable.Kind) string {
	switch k {
	case unstable.Integer:
		return "an integer"
	case unstable.Array:
		return "a list"
	case unstable.Table, unstable.InlineTable:
		return "a table"
	case unstable.ArrayTable:
		return "a list of tables"
	case unstable.Bool:
		return "a boolean"
	}
	return "a " + strings.ToLower(k.String())
}

// guess gives ", did you mean X?" for a key that is near, or one of the same last name.
func guess(path string) string {
	name := path[strings.LastIndexByte(path, '.')+1:]
	best, distance := "", 3 // up to two typing errors
	for _, k := range Keys() {
		if d := editDistance(path, k.Path); d < distance {
			best, distance = k.Path, d
		} else if best == "" && strings.HasSuffix(k.Path, "."+name) {
			best = k.Path
		}
	}
	if best == "" {
		return " (`cri-pouch config default` lists all)"
	}
	return ", did you mean " + best + "?"
}

// editDistance is Levenshtein's, in bytes.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// errNoKey is what a printer gets for a path that is no key; a test keeps it from happening.
var errNoKey = errors.New("no such key")
