package server

import (
	"fmt"
	"io"
	"strconv"
	"strings"
)

// WriteTOML writes c as a configuration file in which every key is explained.
func (c Config) WriteTOML(w io.Writer) error {
	table := ""
	for i, k := range Keys() {
		value, err := c.tomlValue(k.Path)
		if err != nil {
			return err
		}
		prefix, name := "", k.Path
		if dot := strings.LastIndexByte(k.Path, '.'); dot >= 0 {
			prefix, name = k.Path[:dot], k.Path[dot+1:]
		}
		var b strings.Builder
		if i > 0 {
			b.WriteByte('\n')
		}
		if prefix != table {
			table = prefix
			fmt.Fprintf(&b, "[%s]\n", table)
		}
		for _, line := range wrap(k.Doc, 110) {
			fmt.Fprintf(&b, "# %s\n", line)
		}
		if k.Flag != "" {
			fmt.Fprintf(&b, "# Flag: --%s\n", k.Flag)
		}
		fmt.Fprintf(&b, "%s = %s\n", name, value)
		if _, err := io.WriteString(w, b.String()); err != nil {
			return err
		}
	}
	return nil
}

// WriteReference writes the table of all keys that stands in docs/config.md.
func WriteReference(w io.Writer) error {
	c := Default()
	if _, err := fmt.Fprint(w, "| key | flag | takes | default | meaning |\n|---|---|---|---|---|\n"); err != nil {
		return err
	}
	for _, k := range Keys() {
		value, err := c.tomlValue(k.Path)
		if err != nil {
			return err
		}
		v, _ := c.field(k.Path)
		flag := ""
		if k.Flag != "" {
			flag = "`--" + k.Flag + "`"
		}
		if _, err := fmt.Fprintf(w, "| `%s` | %s | %s | `%s` | %s |\n", k.Path, flag, typeName(v), value, strings.ReplaceAll(k.Doc, "|", `\|`)); err != nil {
			return err
		}
	}
	return nil
}

func (c Config) tomlValue(path string) (string, error) {
	v, ok := c.field(path)
	if !ok {
		return "", fmt.Errorf("%s: %w", path, errNoKey)
	}
	switch x := v.Interface().(type) {
	case string:
		return quote(x), nil
	case []string:
		quoted := make([]string, len(x))
		for i, s := range x {
			quoted[i] = quote(s)
		}
		return "[" + strings.Join(quoted, ", ") + "]", nil
	case Duration:
		return quote(x.String()), nil
	case Size:
		return quote(x.String()), nil
	case int:
		return strconv.Itoa(x), nil
	case bool:
		return strconv.FormatBool(x), nil
	}
	return "", fmt.Errorf("%s has a type that cannot be written: %w", path, errNoKey)
}

// quote writes a TOML basic string.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < 0x20 || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// wrap breaks text between words so that no line is longer than width, if its words allow.
func wrap(text string, width int) (lines []string) {
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines, line = append(lines, line), word
			continue
		}
		line = strings.TrimPrefix(line+" "+word, " ")
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}
