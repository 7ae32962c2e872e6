package hooks

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

const prestart, poststop = Prefix + "prestart", Prefix + "poststop"

func TestReadGivesWhatIsWritten(t *testing.T) {
	got, err := Rules{}.Read(map[string]string{
		prestart + ".web": `[
			{"name": "routes", "exec": ["/sbin/ip", "route", "add", "é\n"], "env": {"B": "2=", "A": ""}, "timeout": "59s", "onFailure": "ignore",
			 "user": "0:daemon", "capabilities": ["NET_ADMIN", "CAP_NET_RAW"], "log": true},
			{"exec": ["x"], "name": "second", "onFailure": "fail"}
		]`,
		prestart: "this is for the others",
		poststop: " [] ",
	}, "web")
	if err != nil {
		t.Fatal(err)
	}
	want := Declared{
		Prestart: List{By: "annotation " + prestart + ".web", Hooks: []Hook{
			{Name: "routes", Exec: []string{"/sbin/ip", "route", "add", "é\n"}, Env: []string{"A=", "B=2="}, Timeout: 59 * time.Second, Ignore: true,
				User: "0:daemon", Capabilities: []string{"CAP_NET_ADMIN", "CAP_NET_RAW"}, Log: true},
			{Name: "second", Exec: []string{"x"}, Timeout: DefaultTimeout},
		}},
		Poststop: List{By: "annotation " + poststop},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestReadNamesThePlaceOfAMistake(t *testing.T) {
	hook := func(field string) string { return `[{"name": "a", "exec": ["x"], ` + field + `}]` }
	many := func(n int, what string) string { return strings.TrimSuffix(strings.Repeat(what+",", n), ",") }
	named := func(n int, field string) string {
		var all []string
		for i := range n {
			all = append(all, fmt.Sprintf(`{"name": "h%d", "exec": ["x"]%s}`, i, field))
		}
		return "[" + strings.Join(all, ",") + "]"
	}
	for name, test := range map[string]struct {
		text string
		want []string
	}{
		"nothing":                 {"", []string{"line 1, column 1: it is empty"}},
		"no JSON":                 {"[\n  {name: 1}]", []string{"line 2, column 4: hook 1: this is no JSON"}},
		"cut off":                 {`[{"name": "a"`, []string{"line 1, column 14: hook 1 (\"a\"): the text ends here"}},
		"an object":               {`{}`, []string{"line 1, column 1: an object is not what"}},
		"a hook that is a string": {`["x"]`, []string{"line 1, column 2: hook 1: a string is not what"}},
		"null":                    {`[null]`, []string{"hook 1: null is not what"}},
		"text behind":             {"[]\n[]", []string{"line 2, column 1: text behind the list"}},
		"a comma too much":        {`[{"name": "a", "exec": ["x"]},]`, []string{"this is no JSON"}},
		"unknown field":           {hook(`"tiemout": "1s"`), []string{"line 1, column 31: hook 1 (\"a\"): field \"tiemout\" is unknown, there are name, exec"}},
		"another case":            {hook(`"Timeout": "1s"`), []string{"field \"Timeout\" is unknown"}},
		"a field twice":           {hook(`"log": true, "log": false`), []string{`"log" stands there twice`}},
		"an escaped field twice":  {hook(`"log": true, "\u006cog": false`), []string{`"log" stands there twice`}},
		"no name":                 {`[{"exec": ["x"]}]`, []string{"line 1, column 2: hook 1: field name is missing"}},
		"no exec":                 {"[\n{\"name\": \"a\"}]", []string{"line 2, column 1: hook 1 (\"a\"): field exec is missing"}},
		"empty argv":              {`[{"name": "a", "exec": []}]`, []string{"line 1, column 24: hook 1 (\"a\"), field exec: the list is empty"}},
		"empty program":           {`[{"name": "a", "exec": [""]}]`, []string{"the program's name is empty"}},
		"NUL in an argument":      {`[{"name": "a", "exec": ["x", "y\u0000"]}]`, []string{"line 1, column 30: ", "NUL"}},
		"half a character":        {`[{"name": "a", "exec": ["\ud800"]}]`, []string{"half of a character"}},
		"a number as argument":    {`[{"name": "a", "exec": ["x", 3]}]`, []string{"field exec: a number is not what"}},
		"a command line":          {`[{"name": "a", "exec": "x y"}]`, []string{"a string is not what has to be here, but a list of strings"}},
		"too many arguments":      {`[{"name": "a", "exec": [` + many(257, `"x"`) + `]}]`, []string{"at most 256 arguments"}},
		"too many variables": {hook(`"env": {` + func() (s string) {
			for i := range 129 {
				s += fmt.Sprintf(`"A%d": "",`, i)
			}
			return s[:len(s)-1]
		}() + `}`), []string{"at most 128 variables"}},
		"a variable twice":        {hook(`"env": {"A": "1", "A": "2"}`), []string{`field env: "A" stands there twice`}},
		"a variable with =":       {hook(`"env": {"A=B": "1"}`), []string{"no name of a variable"}},
		"an empty variable":       {hook(`"env": {"": "1"}`), []string{"no name of a variable"}},
		"a variable of ours":      {hook(`"env": {"POUCH_ATTEMPT": "1"}`), []string{"are cri-pouch's"}},
		"NUL in a variable":       {hook(`"env": {"A": "\u0000"}`), []string{"field env: the string has a NUL"}},
		"variables in a list":     {hook(`"env": ["A=1"]`), []string{"a list is not what"}},
		"negative timeout":        {hook(`"timeout": "-1s"`), []string{"field timeout: -1s is no time to run in"}},
		"no timeout":              {hook(`"timeout": "0s"`), []string{"0s is no time to run in"}},
		"a number as timeout":     {hook(`"timeout": 30`), []string{"field timeout: a number is not what"}},
		"no duration":             {hook(`"timeout": "soon"`), []string{`"soon" is no duration`}},
		"too long a timeout":      {hook(`"timeout": "91s"`), []string{"1m31s is above the limit, 1m30s"}},
		"an overflowing timeout":  {hook(`"timeout": "9999999h"`), []string{"field timeout"}},
		"onFailure":               {hook(`"onFailure": "retry"`), []string{`"retry" is neither fail nor ignore`}},
		"user":                    {hook(`"user": "a:b:c"`), []string{`"a:b:c" is no user`}},
		"empty user":              {hook(`"user": ""`), []string{`"" is no user`}},
		"capability":              {hook(`"capabilities": ["NET_ADMIM"]`), []string{`"NET_ADMIM" is no capability`}},
		"all capabilities":        {hook(`"capabilities": ["ALL"]`), []string{`"ALL" is no capability`}},
		"a capability in small":   {hook(`"capabilities": ["net_admin"]`), []string{`is no capability`}},
		"a capability twice":      {hook(`"capabilities": ["NET_ADMIN", "CAP_NET_ADMIN"]`), []string{`CAP_NET_ADMIN stands there twice`}},
		"log":                     {hook(`"log": "true"`), []string{"field log: a string is not what"}},
		"a name with a space":     {`[{"name": "a b", "exec": ["x"]}]`, []string{"line 1, column 11: hook 1, field name: \"a b\" is no name"}},
		"a name that is too long": {`[{"name": "` + strings.Repeat("a", 64) + `", "exec": ["x"]}]`, []string{"is no name"}},
		"a name twice":            {`[{"name": "a", "exec": ["x"]}, {"name": "a", "exec": ["x"]}]`, []string{"line 1, column 32: hook 2 (\"a\"): hook 1 has that name already"}},
		"too many hooks":          {named(17, ""), []string{"hook 17: at most 16 hooks"}},
		"too long in all":         {named(4, ""), []string{"the timeouts of the 4 hooks add up to 2m0s", "must take less than 1m30s in all"}},
		"a byte that is no UTF-8": {"[\"\xff\"]", []string{"line 1, column 3: a byte that is not UTF-8"}},
		"1 MiB":                   {"[" + strings.Repeat(" ", 1<<20) + "]", []string{"line 1, column 65537: ", "it has 1048578"}},
		"1 MiB of lines":          {"[" + strings.Repeat("\n", 1<<20) + "]", []string{"line 65536, column 1: "}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Rules{}.Read(map[string]string{prestart: test.text}, "web")
			if err == nil {
				t.Fatal("it was taken")
			}
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("class of %v", err)
			}
			for _, w := range append(test.want, "annotation "+prestart+": ") {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("got %q, want it to hold %q", err, w)
				}
			}
			if len(err.Error()) > 1000 {
				t.Errorf("the message has %d bytes", len(err.Error()))
			}
		})
	}
}

func TestLimitsOfNodeAndStage(t *testing.T) {
	two := func(timeout string) string {
		return fmt.Sprintf(`[{"name": "a", "exec": ["x"], "timeout": %q}, {"name": "b", "exec": ["x"], "timeout": %q}]`, timeout, timeout)
	}
	for name, test := range map[string]struct {
		key, text string
		limit     time.Duration
		want      string // empty: it is taken
	}{
		"prestart of less":       {prestart, two("44999ms"), 0, ""},
		"prestart of 90 s":       {prestart, two("45s"), 0, "must take less than 1m30s in all"},
		"one prestart of 90 s":   {prestart, `[{"name": "a", "exec": ["x"], "timeout": "90s"}]`, 0, "must take less than 1m30s"},
		"poststop of 60 s":       {poststop, two("30s"), 0, ""},
		"poststop of more":       {poststop, two("31s"), 0, "the poststop hooks of a container may take 1m0s in all"},
		"one poststop of more":   {poststop, `[{"name": "a", "exec": ["x"], "timeout": "61s"}]`, 0, "may take 1m0s"},
		"above the node's limit": {prestart, two("11s"), 10 * time.Second, "11s is above the node's limit hooks.max_timeout, 10s"},
		"at the node's limit":    {prestart, two("10s"), 10 * time.Second, ""},
		"defaults within it":     {poststop, `[{"name": "a", "exec": ["x"]},{"name": "b", "exec": ["x"]},{"name": "c", "exec": ["x"]}]`, 10 * time.Second, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Rules{MaxTimeout: test.limit}.Read(map[string]string{test.key: test.text}, "web")
			switch {
			case test.want == "" && err != nil:
				t.Error(err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

func TestApplyingLeavesWhatIsForTheContainer(t *testing.T) {
	got, err := Applying(map[string]string{
		"other.io/x": "y", prestart: "all", prestart + ".web": "web", prestart + ".db": "db", poststop: "after", poststop + ".db": "db",
	}, "web")
	if want := map[string]string{prestart + ".web": "web", poststop: "after"}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := Applying(map[string]string{"rich.cri-pouch.io/mode": "none", prestart + ".db": ""}, "web"); err != nil || got != nil {
		t.Errorf("got %v, %v", got, err)
	}
	for _, key := range []string{"prestrat", "poststop-web", "", "prestart.", "Prestart"} {
		if _, err := Applying(map[string]string{Prefix + key: "[]"}, "web"); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), Prefix+key) {
			t.Errorf("%q: %v", key, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(`[{"name": "a", "exec": ["x"], "env": {"A": "1"}, "timeout": "1s", "onFailure": "fail", "user": "0", "capabilities": ["NET_RAW"], "log": true}]`)
	f.Add(`[{]`)
	f.Add("[\"\\u0000\xff")
	f.Fuzz(func(t *testing.T, text string) {
		d, err := Rules{}.Read(map[string]string{prestart: text}, "web")
		if err != nil {
			if !strings.Contains(err.Error(), prestart) {
				t.Errorf("%v names no annotation", err)
			}
			return
		}
		var sum time.Duration
		for _, h := range d.Prestart.Hooks {
			sum += h.Timeout
			if h.Name == "" || len(h.Exec) == 0 || h.Timeout <= 0 {
				t.Errorf("taken: %+v", h)
			}
		}
		if sum >= PrestartLimit {
			t.Errorf("taken although they take %s", sum)
		}
	})
}
