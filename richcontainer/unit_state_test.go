package richcontainer

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// What systemd 252 and 247 print; 247 has the properties in another order.
const shown = `MainPID=45
NRestarts=2
Id=cron.service
LoadState=loaded
ActiveState=active
SubState=running

Id=getty@tty1.service
LoadState=masked
ActiveState=inactive
SubState=dead
MainPID=0
NRestarts=0

Id=a\x2db:c.service
LoadState=not-found
ActiveState=inactive
SubState=dead
`

func (u UnitState) String() string {
	restarts := "-"
	if u.Restarts != nil {
		restarts = fmt.Sprint(*u.Restarts)
	}
	return strings.Join([]string{u.Name, u.Load, u.Active, u.Sub, fmt.Sprint(u.MainPID), restarts}, " ")
}

func TestParseUnitStates(t *testing.T) {
	for name, tc := range map[string]struct {
		output  string
		want    []string
		omitted int
	}{
		"services": {output: shown, want: []string{
			"cron.service loaded active running 45 2", "getty@tty1.service masked inactive dead 0 0", `a\x2db:c.service not-found inactive dead 0 -`}},
		"nothing":             {output: ""},
		"blank lines":         {output: "\n\n\n\n\n"},
		"no systemctl":        {output: "I am a teapot\n"},
		"no name":             {output: "LoadState=loaded\n\nActiveState=active\n"},
		"control characters":  {output: "Id=a\x1b[2J.service\n\nId=b.service\nSubState=\x1b]0;x\x07\nActiveState=active\u202e\nLoadState=LOADED\n", want: []string{"b.service    0 -"}, omitted: 1},
		"no UTF-8":            {output: "Id=\xff.service\n\nId=b.service\nActiveState=\xfe\n", want: []string{"b.service    0 -"}, omitted: 1},
		"another kind":        {output: "Id=x.device\n\nId=../x.service\n\nId=\n\nId=.service\n\nId=x.timer\n", want: []string{"x.timer    0 -"}, omitted: 4},
		"numbers":             {output: "Id=b.service\nMainPID=-4\nNRestarts=99999999999\n\nId=c.service\nMainPID=2147483648\nNRestarts=-1\n\nId=d.service\nMainPID=0x10\n", want: []string{"b.service    0 -", "c.service    0 -", "d.service    0 -"}},
		"twice":               {output: "Id=b.service\nSubState=a\n\nId=b.service\nSubState=b\n", want: []string{"b.service   a 0 -"}, omitted: 1},
		"two names in one":    {output: "Id=b.service\nId=c.service\n", want: []string{"c.service    0 -"}},
		"a long name":         {output: "Id=" + strings.Repeat("x", 248) + ".service\n\nId=" + strings.Repeat("y", 247) + ".service\n", want: []string{strings.Repeat("y", 247) + ".service    0 -"}, omitted: 1},
		"a long state":        {output: "Id=b.service\nSubState=" + strings.Repeat("x", 100_000) + "\n", want: []string{"b.service    0 -"}},
		"no last newline":     {output: "Id=b.service\nSubState=dead", want: []string{"b.service   dead 0 -"}},
		"spaces":              {output: "Id= b.service\n\n Id=c.service\n", omitted: 1},
		"equals in the value": {output: "Id=b.service\nSubState=a=b\n", want: []string{"b.service    0 -"}},
	} {
		t.Run(name, func(t *testing.T) {
			states, omitted := ParseUnitStates([]byte(tc.output))
			var got []string
			for _, u := range states {
				got = append(got, u.String())
			}
			if !slices.Equal(got, tc.want) || omitted != tc.omitted {
				t.Errorf("%q and %d omitted, wanted %q and %d", got, omitted, tc.want, tc.omitted)
			}
		})
	}
}

func TestUnitsThatAreNoServicesAreNamed(t *testing.T) {
	argv := UnitStatesCommand([]string{"a.service", "b.timer", "b@.timer", "b.timer", "--root=/.timer", "*.timer", "c@x.socket", ""})
	if got := argv[slices.Index(argv, "--"):]; !slices.Equal(got, []string{"--", "*.service", "b.timer", "c@x.socket"}) {
		t.Errorf("%q", got)
	}
}

func TestMoreServicesThanAnybodyReads(t *testing.T) {
	var b strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&b, "Id=s%d.service\nSubState=dead\n\n", i)
	}
	if states, omitted := ParseUnitStates([]byte(b.String())); len(states) != unitStates || omitted != 5000-unitStates {
		t.Errorf("%d services, %d omitted", len(states), omitted)
	}
}

func FuzzParseUnitStates(f *testing.F) {
	f.Add([]byte(shown))
	f.Add([]byte("Id=\x1b.service\n\n\nNRestarts=1"))
	f.Fuzz(func(t *testing.T, output []byte) {
		states, omitted := ParseUnitStates(output)
		if len(states) > unitStates || omitted < 0 {
			t.Fatalf("%d services, %d omitted", len(states), omitted)
		}
		for _, u := range states {
			for _, text := range []string{u.Name, u.Load, u.Active, u.Sub} {
				if !utf8.ValidString(text) || len(text) > 255 || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
					t.Fatalf("%q lets %q through", output, text)
				}
			}
			if u.MainPID < 0 {
				t.Fatalf("pid %d", u.MainPID)
			}
		}
	})
}
