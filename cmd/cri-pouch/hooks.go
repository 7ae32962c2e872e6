package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cri-pouch/cri-pouch/cmd/cri-pouch/client"
	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
)

func (a *app) hooksCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "hooks", Short: "Hooks of the node and of pods", Args: exactly(0, "a command: list or test"), RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(a.hooksListCommand(), a.hooksTestCommand())
	return cmd
}

func (a *app) hooksListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "List the files that declare hooks of the node", Args: exactly(0, "no arguments"),
		Long: "List the files of hooks.hooks_dirs in the order in which their hooks run. ERROR says why a file is not used.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd.Context(), func(c *client.Client) error {
				resp, err := c.Pouch.ListHooks(cmd.Context(), &pouchv1.ListHooksRequest{})
				if err != nil {
					return err
				}
				return a.print(hookFiles(resp))
			})
		},
	}
	a.outputFlags(cmd, true)
	return cmd
}

func hookFiles(resp *pouchv1.ListHooksResponse) listing {
	l := listing{header: []string{"FILE", "STAGES", "WHEN", "PATH", "TIMEOUT", "ERROR"}, message: resp}
	for _, f := range resp.GetFiles() {
		timeout := none
		if s := f.GetTimeoutSeconds(); s > 0 {
			timeout = fmt.Sprintf("%ds", s)
		}
		l.ids = append(l.ids, f.GetFile())
		l.rows = append(l.rows, []string{
			f.GetFile(), orNone(strings.Join(f.GetStages(), ",")), orNone(condition(f.GetWhen())), orNone(f.GetPath()), timeout, orNone(f.GetError()),
		})
	}
	return l
}

// condition prints what has to be so of a container, all of it.
func condition(w *pouchv1.HookCondition) string {
	if w == nil {
		return ""
	}
	var all []string
	if w.Always != nil {
		all = append(all, fmt.Sprintf("always=%t", w.GetAlways()))
	}
	for _, key := range slices.Sorted(maps.Keys(w.GetAnnotations())) {
		all = append(all, fmt.Sprintf("annotation %s=%s", key, w.GetAnnotations()[key]))
	}
	if len(w.GetCommands()) > 0 {
		all = append(all, "command "+strings.Join(w.GetCommands(), "|"))
	}
	if w.HasBindMounts != nil {
		all = append(all, fmt.Sprintf("hasBindMounts=%t", w.GetHasBindMounts()))
	}
	return strings.Join(all, " and ")
}
