// Package comparison prints how something looked before and after, and says where that is not as it should be.
package comparison

import (
	"errors"
	"fmt"
	"strings"
)

// Row is one line of the table: what it is, and whether it is to change.
type Row struct {
	what, value string
	changes     bool
}

// Kept is a row that is to stay as it is.
func Kept(what, value string) Row { return Row{what: what, value: value} }

// Changed is one that is to change.
func Changed(what, value string) Row { return Row{what, value, true} }

// Print compares two looks, row by row. Its error names each row that is not as it should be. footer gives the line below
// the table, from the width of the first column.
func Print(before, after []Row, footer func(width int) string) error {
	w := [3]int{}
	for i := range before {
		w[0], w[1], w[2] = max(w[0], len(before[i].what)), max(w[1], len(before[i].value)), max(w[2], len(after[i].value))
	}
	line := fmt.Sprintf("  %s-+-%s-+-%s-+----------", strings.Repeat("-", w[0]), strings.Repeat("-", w[1]), strings.Repeat("-", w[2]))
	fmt.Printf("\n  %-*s | %-*s | %-*s |\n%s\n", w[0], "", w[1], "before", w[2], "after", line)
	var wrong []error
	for i, b := range before {
		a := after[i]
		verdict := "same"
		if a.value != b.value {
			verdict = "new"
		}
		if (a.value != b.value) != b.changes || a.value == "" {
			verdict += "  (WRONG)"
			wrong = append(wrong, fmt.Errorf("%s: %q before, %q after", b.what, b.value, a.value))
		}
		fmt.Printf("  %-*s | %-*s | %-*s | %s\n", w[0], b.what, w[1], b.value, w[2], a.value, verdict)
	}
	fmt.Printf("%s\n  %s\n", line, footer(w[0]))
	return errors.Join(wrong...)
}

// Short is the part of an ID that tells it from others.
func Short(id string) string { return id[:min(13, len(id))] }
