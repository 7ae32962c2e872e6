package hookrun

import (
	"fmt"
	"strings"
	"time"
)

// Bounds of what String quotes of a hook's output.
const (
	quotedLines = 5
	quotedBytes = 512
)

// String says in one line what became of the hook, with the last lines of its output where it did not succeed.
func (r Result) String() string {
	said := fmt.Sprintf("%s hook %q ", r.Stage, r.Name)
	switch r.Outcome {
	case Succeeded:
		return said + "succeeded in " + r.Duration.Round(time.Millisecond).String()
	case TimedOut:
		said += "timed out after " + r.Duration.Round(time.Millisecond).String()
	case Skipped:
		said += "was skipped"
	default:
		said += fmt.Sprintf("failed with exit code %d", r.ExitCode)
	}
	if r.Message != "" {
		said += ": " + plain(r.Message)
	}
	if tail := r.lastLines(); tail != "" {
		said += ": " + tail
	}
	return said
}

// plain takes out what a terminal would obey.
func plain(text string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c >= 0x7f && c < 0xa0 {
			return ' '
		}
		return c
	}, text)
}

// lastLines gives the end of the output on one line, without what a terminal would obey.
func (r Result) lastLines() string {
	lines := strings.Split(strings.TrimSpace(r.Output), "\n")
	text := strings.Join(lines[max(len(lines)-quotedLines, 0):], " | ")
	text = plain(text)
	if over := len(text) - quotedBytes; over > 0 {
		text = "…" + strings.ToValidUTF8(text[over:], "")
	}
	return strings.TrimSpace(text)
}
