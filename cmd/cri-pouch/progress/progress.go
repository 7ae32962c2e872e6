// Package progress shows a pull on a terminal as one bar that is redrawn, elsewhere as plain lines.
package progress

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/cri-pouch/cri-pouch/cmd/cri-pouch/table"
	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
)

const (
	defaultWidth = 80
	plainEvery   = 5 * time.Second
	barWidth     = 24
)

// Printer prints the progress of one pull. It is not safe for concurrent use.
type Printer struct {
	w        io.Writer
	ref      string
	terminal bool
	width    func() int
	now      func() time.Time
	last     time.Time // of the last plain line
	drawn    bool
}

// New gives a Printer for the pull of ref; it draws a bar if w is a terminal.
func New(w io.Writer, ref string) *Printer {
	p := &Printer{w: w, ref: ref, now: time.Now, width: func() int { return defaultWidth }}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		p.terminal = true
		p.width = func() int {
			if cols, _, err := term.GetSize(int(f.Fd())); err == nil && cols > 0 {
				return cols
			}
			return defaultWidth
		}
	}
	return p
}

// Update shows the state of the pull.
func (p *Printer) Update(s *pouchv1.Pull) {
	if p.terminal {
		p.drawn = true
		fmt.Fprint(p.w, "\r"+bar(p.ref, s, p.width()-1)+"\x1b[K")
		return
	}
	if now := p.now(); now.Sub(p.last) >= plainEvery {
		p.last = now
		fmt.Fprintln(p.w, "pulling "+table.Clean(p.ref)+": "+figures(s))
	}
}

// Done takes the bar away, so that what follows stands on a line of its own.
func (p *Printer) Done() {
	if p.drawn {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.drawn = false
	}
}

// bar gives a line of at most width columns: name, bar, figures; what does not fit is left out from the left.
func bar(ref string, s *pouchv1.Pull, width int) string {
	text := figures(s)
	if width < len(text) {
		return text[:max(width, 0)]
	}
	full := 0
	if s.GetBytesTotal() > 0 {
		full = int(int64(barWidth) * min(s.GetBytesDone(), s.GetBytesTotal()) / s.GetBytesTotal())
	}
	if with := "[" + strings.Repeat("#", full) + strings.Repeat(".", barWidth-full) + "] " + text; len(with) <= width {
		text = with
	}
	name := []rune(table.Clean(ref))
	if room := width - len(text) - 1; room < len(name) {
		if room < 8 {
			return text
		}
		name = append([]rune("..."), name[len(name)-room+3:]...)
	}
	return string(name) + " " + text
}

// figures gives "12.3MB of 45.6MB, 2 of 5 layers unpacked".
func figures(s *pouchv1.Pull) string {
	if s.GetBytesTotal() <= 0 {
		return "resolving"
	}
	return fmt.Sprintf("%s of %s, %d of %d layers unpacked", table.Size(uint64(max(s.GetBytesDone(), 0))), table.Size(uint64(s.GetBytesTotal())),
		s.GetLayersUnpacked(), s.GetLayersTotal())
}
