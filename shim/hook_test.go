package shim

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/crilog"
	"github.com/cri-pouch/cri-pouch/internal/hookrun"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

func TestTheEndOfAHooksOutputIsKept(t *testing.T) {
	for name, tc := range map[string]struct {
		writes []string
		want   string
	}{
		"nothing":            {nil, ""},
		"little":             {[]string{"a\n", "b"}, "a\nb"},
		"a piece too long":   {[]string{strings.Repeat("a", 10000) + "end"}, strings.Repeat("a", hookrun.OutputMax-3) + "end"},
		"many pieces":        {strings.SplitAfter(strings.Repeat("0123456789\n", 5000), "\n"), strings.Repeat("0123456789\n", 5000)[55000-hookrun.OutputMax:]},
		"cut in a character": {[]string{strings.Repeat("€", 2000)}, "\uFFFD" + strings.Repeat("€", hookrun.OutputMax/3-1)},
		"no UTF-8 at all":    {[]string{strings.Repeat("\xffa", hookrun.OutputMax)}, strings.Repeat("\uFFFDa", hookrun.OutputMax/4)},
	} {
		t.Run(name, func(t *testing.T) {
			log, err := crilog.New("", nil)
			if err != nil {
				t.Fatal(err)
			}
			o, child, err := newHookOutput(log, hookrun.Hook{Name: "h"})
			if err != nil {
				t.Fatal(err)
			}
			defer child.Close() // somebody keeps it open: the end does not wait for it
			o.follower.start()
			for _, w := range tc.writes {
				if _, err := child.WriteString(w); err != nil {
					t.Fatal(err)
				}
			}
			began := time.Now()
			got := o.finish()
			if time.Since(began) > time.Minute {
				t.Errorf("it took %s", time.Since(began))
			}
			if got != tc.want && !(name == "cut in a character" && utf8.ValidString(got) && len(got) <= hookrun.OutputMax && strings.HasSuffix(got, "€€")) {
				t.Errorf("%d bytes %.40q, want %d bytes %.40q", len(got), got, len(tc.want), tc.want)
			}
		})
	}
}

func TestAHooksLinesInTheLog(t *testing.T) {
	long := strings.Repeat("x", hookLogMax)
	cut := fmt.Sprintf("[hook h] (what goes beyond %d bytes of the log is left out)", hookLogMax)
	for name, tc := range map[string]struct {
		writes []string
		want   []string
	}{
		"lines":                 {[]string{"a\nb\n"}, []string{"[hook h] a", "[hook h] b"}},
		"pieces":                {[]string{"a", "b\nc", "", "\n"}, []string{"[hook h] ab", "[hook h] c"}},
		"empty lines":           {[]string{"\n\n"}, []string{"[hook h] ", "[hook h] "}},
		"no end":                {[]string{"a"}, []string{"[hook h] a"}},
		"beyond the limit":      {[]string{"a\n" + long, "more\n"}, []string{"[hook h] a", cut}},
		"lines up to the limit": {[]string{strings.Repeat("y\n", hookLogMax/2), "z"}, []string{cut}},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "log")
			log, err := crilog.New(path, func(err error) { t.Error(err) })
			if err == nil {
				err = log.Reopen()
			}
			if err != nil {
				t.Fatal(err)
			}
			l := newHookLog(log.Stream("stdout"), "h")
			for _, w := range tc.writes {
				l.write([]byte(w))
			}
			l.end()
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for line := range bytes.Lines(text) {
				content := string(bytes.TrimSuffix(bytes.SplitN(line, []byte(" "), 4)[3], []byte("\n")))
				if strings.HasPrefix(content, "[hook h] xxx") || strings.HasPrefix(content, "xxx") || content == "[hook h] y" {
					continue // the long one, in partial records
				}
				got = append(got, content)
			}
			if !reflect.DeepEqual(got, tc.want) {
				t.Errorf("%.200q", got)
			}
			if len(text) > hookLogMax+hookLogMax/100 {
				t.Errorf("%d bytes", len(text))
			}
		})
	}
}

func TestWhatAPoststopHookIsTold(t *testing.T) {
	started := time.Date(2030, 1, 2, 3, 4, 5, 6, time.FixedZone("", 3600))
	for name, tc := range map[string]struct {
		end          ending
		killed       bool
		code, signal string
		reason       string
	}{
		"success":            {ending{}, false, "0", "", "Completed"},
		"code":               {ending{Exit: task.Exit{Code: 137}}, true, "137", "", "Error"},
		"signal":             {ending{Exit: task.Exit{Code: 143}, signal: unix.SIGTERM}, true, "143", "15", "Error"},
		"killed by us":       {ending{Exit: task.Exit{Code: 137}, signal: unix.SIGKILL}, true, "137", "9", "Killed"},
		"killed by others":   {ending{Exit: task.Exit{Code: 137}, signal: unix.SIGKILL}, false, "137", "9", "Error"},
		"killed too late":    {ending{Exit: task.Exit{Code: 137}, signal: unix.SIGKILL, endedAt: started}, true, "137", "9", "Error"},
		"by the OOM killer":  {ending{Exit: task.Exit{Code: 137, OOMKilled: true}, signal: unix.SIGKILL}, true, "137", "9", "OOMKilled"},
		"success, then kill": {ending{}, true, "0", "", "Completed"},
		"success, a child killed by the OOM killer": {ending{Exit: task.Exit{OOMKilled: true}}, false, "0", "", "Completed"},
	} {
		c := &container{startedAt: started}
		if tc.killed {
			c.noteKill()
			c.killedAt.Store(started.Add(time.Second).UnixNano())
		}
		at := "2030-01-02T02:04:05.000000006Z"
		if tc.end.endedAt.IsZero() {
			tc.end.endedAt, at = started.Add(time.Second), "2030-01-02T02:04:06.000000006Z"
		}
		got := withEnv([]string{"A=1", "POUCH_REASON=forged", "POUCH_SIGNAL", "POUCH_ATTEMPT=2"}, c.facts(tc.end))
		want := []string{
			"A=1", "POUCH_ATTEMPT=2", "POUCH_EXIT_CODE=" + tc.code, "POUCH_SIGNAL=" + tc.signal, "POUCH_REASON=" + tc.reason,
			"POUCH_STARTED_AT=2030-01-02T02:04:05.000000006Z", "POUCH_FINISHED_AT=" + at,
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestPlansOfHooksThatAreRefused(t *testing.T) {
	log := logrus.NewEntry(logrus.StandardLogger())
	spec := func(cgroup string) *specs.Spec {
		return &specs.Spec{Root: &specs.Root{Path: "/r"}, Process: &specs.Process{}, Linux: &specs.Linux{CgroupsPath: cgroup}}
	}
	hook := func(change func(*hookrun.Hook)) []hookrun.Hook {
		h := hookrun.Hook{Name: "h", Process: &specs.Process{Args: []string{"true"}}, Timeout: time.Second}
		if change != nil {
			change(&h)
		}
		return []hookrun.Hook{h}
	}
	for name, plan := range map[string]hookrun.Plan{
		"no name":                {Prestart: hook(func(h *hookrun.Hook) { h.Name = "" })},
		"no process":             {Prestart: hook(func(h *hookrun.Hook) { h.Process = nil })},
		"no command":             {Prestart: hook(func(h *hookrun.Hook) { h.Process.Args = nil })},
		"no timeout":             {Prestart: hook(func(h *hookrun.Hook) { h.Timeout = 0 })},
		"poststop, no timeout":   {Poststop: hook(func(h *hookrun.Hook) { h.Timeout = -1 }), PoststopSpec: spec("/b")},
		"no container":           {Poststop: hook(nil)},
		"no root":                {Poststop: hook(nil), PoststopSpec: &specs.Spec{Linux: &specs.Linux{CgroupsPath: "/b"}}},
		"no cgroup":              {Poststop: hook(nil), PoststopSpec: spec("")},
		"the container's cgroup": {Poststop: hook(nil), PoststopSpec: spec("/a")},
	} {
		bundle := t.TempDir()
		if err := plan.Write(bundle); err != nil {
			t.Fatal(err)
		}
		c := newContainer(&Server{host: newHost(log), log: log}, "c", bundle)
		if h, err := newHooks(c, spec("/a")); err == nil {
			t.Errorf("%s: %+v was taken", name, h.plan)
		}
	}
}
