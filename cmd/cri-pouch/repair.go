package main

import (
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/cri-pouch/cri-pouch/cmd/cri-pouch/client"
	"github.com/cri-pouch/cri-pouch/cmd/cri-pouch/table"
	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
)

func (a *app) repairCommand() *cobra.Command {
	var apply, id string
	cmd := &cobra.Command{
		Use: "repair", Short: "Explain what the daemon has left alone because it did not understand it, and repair it", Args: exactly(0, "no arguments"),
		Long: "Print what the daemon found at its start and did not understand, with what a repair would do about it.\n" +
			"Nothing of it is touched until --apply names its kind, or a client stops or removes it by its ID.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if id != "" && apply == "" {
				return usagef("--id names one finding of the kind that --apply gives, which is missing")
			}
			return a.call(cmd.Context(), func(c *client.Client) error {
				if apply == "" {
					resp, err := c.Pouch.ListFindings(cmd.Context(), &pouchv1.ListFindingsRequest{})
					if err != nil {
						return err
					}
					return a.print(findingList(resp.GetFindings(), resp))
				}
				resp, err := c.Pouch.Repair(cmd.Context(), &pouchv1.RepairRequest{Kind: apply, Id: id})
				if err != nil {
					return err
				}
				return a.print(findingList(resp.GetRepaired(), resp))
			})
		},
	}
	a.outputFlags(cmd, true)
	cmd.Flags().StringVar(&apply, "apply", "", "do what REPAIR says about all findings of this `kind`")
	cmd.Flags().StringVar(&id, "id", "", "with --apply: only about the finding with this `ID`")
	return cmd
}

func findingList(findings []*pouchv1.Finding, message proto.Message) listing {
	l := listing{header: []string{"KIND", "ID", "RUNNING", "REASON", "REPAIR"}, message: message}
	for _, f := range findings {
		l.ids = append(l.ids, f.GetId())
		l.rows = append(l.rows, []string{f.GetKind(), f.GetId(), yesNo(f.GetRunning()), f.GetReason(), f.GetRemedy()})
	}
	return l
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// printFindings prints what the daemon has left alone, if there is anything, below its conditions. A daemon that does not
// know the question has nothing to say.
func (a *app) printFindings(cmd *cobra.Command, c *client.Client) error {
	resp, err := c.Pouch.ListFindings(cmd.Context(), &pouchv1.ListFindingsRequest{})
	if errors.Is(errgrpc.ToNative(err), errdefs.ErrNotImplemented) || err == nil && len(resp.GetFindings()) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(a.out, "\nLeft alone, for it was not understood (cri-pouch repair):"); err != nil {
		return err
	}
	l := findingList(resp.GetFindings(), resp)
	return table.Write(a.out, l.header, l.rows)
}
