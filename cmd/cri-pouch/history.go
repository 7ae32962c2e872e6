package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cri-pouch/cri-pouch/cmd/cri-pouch/client"
	"github.com/cri-pouch/cri-pouch/cmd/cri-pouch/table"
	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
)

func (a *app) historyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "history POD", Short: "List what ran in a pod: versions, restarts, upgrades and their outages", Args: exactly(1, "one pod"),
		Long: "List the generations of a pod's containers, oldest first, the last 20 of each name; also those whose containers\n" +
			"are removed already. OUTAGE is the time from the end of the one before to the start.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd.Context(), func(c *client.Client) error {
				p, err := c.Pod(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				resp, err := c.Pouch.History(cmd.Context(), &pouchv1.HistoryRequest{PodSandboxId: p.GetId()})
				if err != nil {
					return err
				}
				return a.print(history(resp, time.Now()))
			})
		},
	}
	a.outputFlags(cmd, true)
	return cmd
}

func history(resp *pouchv1.HistoryResponse, now time.Time) listing {
	l := listing{
		header: []string{"NAME", "ATTEMPT", "CONTAINER", "CAUSE", "IMAGE", "DIGEST", "HASH", "STARTED", "RAN", "OUTAGE", "STATE"}, message: resp,
	}
	for _, g := range resp.GetGenerations() {
		l.ids = append(l.ids, g.GetContainerId())
		l.rows = append(l.rows, []string{
			g.GetContainerName(), fmt.Sprint(g.GetAttempt()), client.ShortID(g.GetContainerId()), causeOf(g), imageOf(g.GetImage()), digestOf(g),
			orNone(g.GetHash()), moment(g.GetStartedAt()), ran(g, now), outage(g.OutageMs), generationState(g),
		})
	}
	return l
}

// none stands in a table where there is nothing.
const none = "-"

func orNone(s string) string {
	if s == "" {
		return none
	}
	return s
}

func causeOf(g *pouchv1.Generation) string {
	if g.GetCause() == pouchv1.Cause_CAUSE_UNSPECIFIED {
		return none
	}
	return strings.ToLower(strings.TrimPrefix(g.GetCause().String(), "CAUSE_"))
}

func imageOf(name string) string {
	if strings.HasPrefix(name, "sha256:") {
		return client.ShortID(name)
	}
	return name
}

// digestOf gives the short digest of the image's manifest; of an image that no registry gave, its ID.
func digestOf(g *pouchv1.Generation) string {
	ref := g.GetImageRef()
	if _, digest, ok := strings.Cut(ref, "@"); ok {
		ref = digest
	}
	return client.ShortID(ref)
}

// moment prints a time (ns since the epoch) of a list.
func moment(ns int64) string {
	if ns == 0 {
		return none
	}
	return time.Unix(0, ns).Format("2006-01-02 15:04:05")
}

// ran prints for how long a generation has run.
func ran(g *pouchv1.Generation, now time.Time) string {
	if g.GetStartedAt() == 0 {
		return none
	}
	end := g.GetFinishedAt()
	if end == 0 {
		end = now.UnixNano()
	}
	return table.Age(g.GetStartedAt(), time.Unix(0, end))
}

// outage prints milliseconds.
func outage(ms *int64) string {
	if ms == nil {
		return none
	}
	return fmt.Sprintf("%d ms", *ms)
}

func generationState(g *pouchv1.Generation) string {
	switch g.GetState() {
	case pouchv1.GenerationState_GENERATION_STATE_CREATED:
		return "Created"
	case pouchv1.GenerationState_GENERATION_STATE_RUNNING:
		return "Running"
	}
	state := fmt.Sprintf("Exited (%d)", g.GetExitCode())
	if r := g.GetReason(); r != "" && r != "Completed" && r != "Error" {
		state += " " + r
	}
	return state
}
