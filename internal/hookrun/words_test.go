package hookrun

import (
	"strings"
	"testing"
	"time"
)

func TestAResultInWords(t *testing.T) {
	for want, r := range map[string]Result{
		`prestart hook "a" succeeded in 12ms`: {Stage: Prestart, Name: "a", Outcome: Succeeded, Duration: 12345 * time.Microsecond, Output: "unsaid"},
		`poststop hook "a" failed with exit code 3: 2 | 3 | 4 | 5 | 6`: {
			Stage: Poststop, Name: "a", Outcome: Failed, ExitCode: 3, Output: "1\n2\n3\n4\n5\n6\n"},
		`prestart hook "a" failed with exit code 127: no such file: [31mred`: {
			Stage: Prestart, Name: "a", Outcome: Failed, ExitCode: 127, Message: "no such file", Output: "\x1b[31mred"},
		`poststop hook "a" timed out after 5s`:                  {Stage: Poststop, Name: "a", Outcome: TimedOut, Duration: 5 * time.Second},
		`poststop hook "a" was skipped: the node was restarted`: {Stage: Poststop, Name: "a", Outcome: Skipped, Message: "the node was restarted"},
	} {
		if got := r.String(); got != want {
			t.Errorf("got  %q\nwant %q", got, want)
		}
	}
	long := Result{Outcome: Failed, Output: strings.Repeat("é", OutputMax/2)}.String()
	if len(long) > quotedBytes+100 || !strings.Contains(long, "…é") {
		t.Errorf("got %d bytes, %.60q", len(long), long)
	}
}
