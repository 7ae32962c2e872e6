package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/cri-pouch/cri-pouch/cmd/cri-pouch/client"
	"github.com/cri-pouch/cri-pouch/cmd/cri-pouch/progress"
	"github.com/cri-pouch/cri-pouch/cmd/cri-pouch/table"
	"github.com/cri-pouch/cri-pouch/internal/hookrun"
)

// maxHookFile bounds a declaration, in bytes: two annotations of the greatest size.
const maxHookFile = 128 << 10

func (a *app) hooksTestCommand() *cobra.Command {
	o := client.HookTest{}
	var file string
	cmd := &cobra.Command{
		Use: "test --image IMAGE -f FILE [COMMAND...]", Short: "Try hooks around a scratch container", Args: cobra.ArbitraryArgs,
		Long: "Run the hooks of FILE around a container in a pod of its own, print what became of each, and remove both. FILE is\n" +
			`{"prestart": [HOOK...], "poststop": [HOOK...]}` + " with lists as a pod's annotations have them; -: standard input. The\n" +
			"container does nothing, so that any image will do; with --run it runs the image's command, or COMMAND, to its end.\n" +
			"Ends with 1 if a hook did not succeed.",
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case o.Image == "" || file == "":
				return usagef("%s needs --image and --file, see `%s --help`", cmd.CommandPath(), cmd.CommandPath())
			case len(args) > 0 && !o.Run:
				return usagef("COMMAND is for --run")
			}
			o.Command = args
			if err := checkEnv(o.Env); err != nil {
				return err
			}
			text, err := a.hookFile(file)
			if err != nil {
				return err
			}
			if o.Prestart, o.Poststop, err = hookLists(text); err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
			return a.call(cmd.Context(), func(c *client.Client) error { return a.testHooks(cmd.Context(), c, o) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Image, "image", "", "the container's `image`, which is pulled if it is missing")
	f.StringVarP(&file, "file", "f", "", "`file` with the hooks")
	f.BoolVar(&o.Run, "run", false, "run the image's command between the hooks")
	f.StringVar(&o.Namespace, "namespace", "default", "`namespace` of the pod: what hooks may have can depend on it")
	f.StringArrayVarP(&o.Env, "env", "e", nil, "environment of the container, `NAME=VALUE`")
	f.StringVar(&o.CgroupParent, "cgroup-parent", "", "parent of the pod's `cgroup`")
	a.outputFlags(cmd, false)
	return cmd
}

// hookFile reads a declaration.
func (a *app) hookFile(name string) ([]byte, error) {
	from := a.in
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		from = f
	}
	text, err := io.ReadAll(io.LimitReader(from, maxHookFile+1))
	if err == nil && len(text) > maxHookFile {
		err = fmt.Errorf("%s has more than %d bytes", name, maxHookFile)
	}
	return text, err
}

// hookLists takes a declaration apart. Before each list stand as many lines and columns as in the file, so that what is said of a
// place in it is said of the file's.
func hookLists(text []byte) (prestart, poststop string, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return "", "", fmt.Errorf(`it is no JSON object, write {"prestart": [...], "poststop": [...]}`)
	}
	lists := map[string]string{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return "", "", err
		}
		key, _ := t.(string)
		if _, twice := lists[key]; twice || key != string(hookrun.Prestart) && key != string(hookrun.Poststop) {
			return "", "", fmt.Errorf("%q is unknown or stands there twice, there are prestart and poststop", key)
		}
		var list json.RawMessage
		if err := d.Decode(&list); err != nil {
			return "", "", fmt.Errorf("%s: %w", key, placed(text, int(d.InputOffset())))
		}
		lists[key] = blank(text[:int(d.InputOffset())-len(list)]) + string(list)
	}
	if _, err := d.Token(); err != nil {
		return "", "", err
	}
	if _, err := d.Token(); err != io.EOF {
		return "", "", fmt.Errorf("there is text behind the object")
	}
	if len(lists) == 0 {
		return "", "", fmt.Errorf("it has neither prestart nor poststop")
	}
	return lists[string(hookrun.Prestart)], lists[string(hookrun.Poststop)], nil
}

// placed says what is wrong with the value that begins at an offset, behind a colon and spaces. A decoder of a stream counts only
// a part of what it reads.
func placed(text []byte, begin int) error {
	for begin < len(text) && bytes.IndexByte([]byte(" \t\r\n:"), text[begin]) >= 0 {
		begin++
	}
	err := json.Unmarshal(text[begin:], new(any))
	bad, ok := errors.AsType[*json.SyntaxError](err)
	if !ok || begin+int(bad.Offset) >= len(text) {
		return errors.New("the text ends in the middle")
	}
	before := text[:begin+int(max(bad.Offset-1, 0))]
	line := bytes.Count(before, []byte("\n"))
	column := utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:])
	return fmt.Errorf("line %d, column %d: %w", line+1, column+1, err)
}

// blank leaves of a text its lines and columns.
func blank(text []byte) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' {
			return r
		}
		return ' '
	}, string(text))
}

func (a *app) testHooks(ctx context.Context, c *client.Client, o client.HookTest) error {
	p := progress.New(a.err, o.Image)
	o.Progress = p.Update
	results, err := c.TestHooks(ctx, o)
	p.Done()
	if printErr := a.printHooks(results); err == nil {
		err = printErr
	}
	if err != nil {
		return err
	}
	for _, r := range results {
		if r.Outcome != hookrun.Succeeded {
			return exitCode(1)
		}
	}
	return nil
}

func (a *app) printHooks(results []hookrun.Result) error {
	if a.output == "json" {
		if results == nil {
			results = []hookrun.Result{}
		}
		b, err := json.MarshalIndent(results, "", "  ")
		if err == nil {
			_, err = fmt.Fprintf(a.out, "%s\n", b)
		}
		return err
	}
	for _, r := range results {
		said := fmt.Sprintf("%s %s: %s", r.Stage, r.Name, r.Outcome)
		if r.Outcome == hookrun.Failed {
			said += fmt.Sprintf(" with exit code %d", r.ExitCode)
		}
		if r.Outcome != hookrun.Skipped {
			said += " after " + r.Duration.Round(time.Millisecond).String()
		}
		if r.Ignored && r.Outcome != hookrun.Succeeded {
			said += ", which is ignored"
		}
		if r.Message != "" {
			said += ": " + r.Message
		}
		if _, err := fmt.Fprintln(a.out, table.Clean(said)); err != nil {
			return err
		}
		for line := range strings.Lines(r.Output) {
			if _, err := fmt.Fprintln(a.out, "    "+table.Clean(strings.ReplaceAll(strings.TrimRight(line, "\r\n"), "\t", "        "))); err != nil {
				return err
			}
		}
	}
	return nil
}
