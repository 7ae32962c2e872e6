// Package terminal keeps what containers print from steering the terminal of whoever reads it.
package terminal

import (
	"io"
	"os"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"
)

// maxColour bounds a sequence that sets colours, in bytes.
const maxColour = 48

// Guard gives w itself where it is no terminal: bytes stay as they are. What is written to a terminal is text, line ends, tabs
// and colours; of all else each character is shown as a question mark. end must be called after the last write.
func Guard(w io.Writer) (guarded io.Writer, end func() error) {
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		g := &filter{w: w}
		return g, g.end
	}
	return w, func() error { return nil }
}

// filter leaves out what steers a terminal.
type filter struct {
	w io.Writer
	// rest is a character, or a sequence, that has not come to its end.
	rest     []byte
	coloured bool
}

// Write implements io.Writer.
func (f *filter) Write(p []byte) (int, error) {
	out, in := make([]byte, 0, len(p)), append(f.rest, p...)
	for len(in) > 0 {
		n, whole := next(in)
		if !whole {
			break
		}
		out, in = f.add(out, in[:n]), in[n:]
	}
	f.rest = append([]byte(nil), in...)
	if _, err := f.w.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

// add appends one character, or a sequence that sets colours.
func (f *filter) add(out, piece []byte) []byte {
	if len(piece) > 1 && piece[0] == escape {
		f.coloured = true
		return append(out, piece...)
	}
	r, size := utf8.DecodeRune(piece)
	if r == '\n' || r == '\r' || r == '\t' || unicode.IsGraphic(r) && (r != utf8.RuneError || size > 1) {
		return append(out, piece...)
	}
	return append(out, '?')
}

// end shows what never came to its end, and takes the colours back.
func (f *filter) end() error {
	var out []byte
	for range f.rest {
		out = append(out, '?')
	}
	if f.coloured {
		out = append(out, "\x1b[0m"...)
	}
	f.rest, f.coloured = nil, false
	if len(out) == 0 {
		return nil
	}
	_, err := f.w.Write(out)
	return err
}

const escape = 0x1b

// next gives the length of what b begins with: a character or, as one, the sequence of ECMA-48 that sets colours (SGR). It is
// not whole where more bytes could make it another one.
func next(b []byte) (n int, whole bool) {
	if b[0] != escape {
		_, n = utf8.DecodeRune(b)
		return n, utf8.FullRune(b)
	}
	for i := 1; i < min(len(b), maxColour); i++ {
		switch c := b[i]; {
		case i == 1 && c == '[':
		case i > 1 && c == 'm':
			return i + 1, true
		case i > 1 && (c >= '0' && c <= '9' || c == ';' || c == ':'):
		default:
			return 1, true
		}
	}
	return 1, len(b) >= maxColour
}
