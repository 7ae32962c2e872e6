// Package table prints lists for people, as JSON, or as bare IDs. What comes from containers and images cannot reach the
// terminal's control characters.
package table

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// gap is the space between two columns.
const gap = 3

// Write prints rows below a header, each column as wide as its widest cell.
func Write(w io.Writer, header []string, rows [][]string) error {
	widths := make([]int, len(header))
	lines := append([][]string{header}, rows...)
	for i, line := range lines {
		clean := make([]string, len(line))
		for j, cell := range line {
			clean[j] = Clean(cell)
			widths[j] = max(widths[j], utf8.RuneCountInString(clean[j]))
		}
		lines[i] = clean
	}
	for _, line := range lines {
		var b strings.Builder
		for j, cell := range line {
			b.WriteString(cell)
			if j < len(line)-1 {
				b.WriteString(strings.Repeat(" ", widths[j]-utf8.RuneCountInString(cell)+gap))
			}
		}
		if _, err := fmt.Fprintln(w, strings.TrimRight(b.String(), " ")); err != nil {
			return err
		}
	}
	return nil
}

// Clean replaces what would steer a terminal.
func Clean(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// JSON prints a message as indented JSON with all its fields.
func JSON(w io.Writer, m proto.Message) error {
	b, err := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(m)
	if err != nil {
		return err
	}
	return indent(w, b)
}

// JSONWithInfo prints a message as JSON, with the entries of the info map of a verbose answer beside it, as crictl does: their
// values are JSON themselves (CRI: "value should be in json format").
func JSONWithInfo(w io.Writer, name string, m proto.Message, info map[string]string) error {
	b, err := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(m)
	if err != nil {
		return err
	}
	all := map[string]json.RawMessage{}
	for k, v := range info {
		if all[k] = json.RawMessage(v); !json.Valid(all[k]) {
			if all[k], err = json.Marshal(v); err != nil {
				return err
			}
		}
	}
	all[name] = b
	if b, err = json.Marshal(all); err != nil {
		return err
	}
	return indent(w, b)
}

func indent(w io.Writer, b []byte) error {
	var out bytes.Buffer
	// protojson varies its spaces on purpose; indenting makes them the same.
	if err := json.Indent(&out, b, "", "  "); err != nil {
		return err
	}
	out.WriteByte('\n')
	_, err := w.Write(escape(out.Bytes()))
	return err
}

// escape writes what would steer a terminal as JSON's escapes, which mean the same. Encoders do so below the space only; all
// else that is no character of ASCII stands in strings.
func escape(text []byte) []byte {
	out := make([]byte, 0, len(text))
	for _, r := range string(text) {
		if r < utf8.RuneSelf && r != '\x7f' || unicode.IsPrint(r) {
			out = utf8.AppendRune(out, r)
			continue
		}
		for _, unit := range utf16.AppendRune(nil, r) {
			out = fmt.Appendf(out, `\u%04x`, unit)
		}
	}
	return out
}

// Size prints bytes with three digits and a decimal unit, as "12.3MB".
func Size(n uint64) string {
	if n < 1000 {
		return fmt.Sprintf("%dB", n)
	}
	v, units := float64(n), "kMGTPE"
	for i := 0; ; i++ {
		v /= 1000
		if v < 999.5 || i == len(units)-1 {
			switch {
			case v < 9.995:
				return fmt.Sprintf("%.2f%cB", v, units[i])
			case v < 99.95:
				return fmt.Sprintf("%.1f%cB", v, units[i])
			}
			return fmt.Sprintf("%.0f%cB", v, units[i])
		}
	}
}

// Age prints how long ago t (ns since the epoch) was, seen from now, as "5m" or "3d".
func Age(t int64, now time.Time) string {
	if t <= 0 {
		return "-"
	}
	d := max(now.Sub(time.Unix(0, t)), 0)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}
