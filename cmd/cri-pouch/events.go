package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/cri-pouch/cri-pouch/cmd/cri-pouch/client"
	"github.com/cri-pouch/cri-pouch/cmd/cri-pouch/table"
	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
)

func (a *app) eventsCommand() *cobra.Command {
	req := &pouchv1.EventsRequest{}
	var since time.Duration
	cmd := &cobra.Command{
		Use: "events", Short: "Print what happened to containers, oldest first", Args: exactly(0, "no arguments"),
		Long: "Print the journal of what happened to containers. It is bounded: where entries are gone before they could be\n" +
			"printed, a line says how many. With -o json each line is one entry.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if since < 0 {
				return usagef("--since is %s, it must not be negative", since)
			}
			if since > 0 {
				req.Since = time.Now().Add(-since).UnixNano()
			}
			return a.call(cmd.Context(), func(c *client.Client) error {
				stream, err := c.Pouch.Events(cmd.Context(), req)
				for err == nil {
					var r *pouchv1.EventsResponse
					if r, err = stream.Recv(); err == nil {
						err = a.printEvent(r)
					}
				}
				if errors.Is(err, io.EOF) || req.Follow && cmd.Context().Err() != nil {
					return nil // all is printed, or the user has seen enough
				}
				return err
			})
		},
	}
	cmd.Flags().BoolVarP(&req.Follow, "follow", "f", false, "go on with what happens, until interrupted")
	cmd.Flags().StringVar(&req.Pod, "pod", "", "only those of this `pod`, also of one that is gone: name, UID, or the beginning of its ID")
	cmd.Flags().DurationVar(&since, "since", 0, "only those of the last `duration`, as 10m")
	cmd.Flags().Uint64Var(&req.After, "after", 0, "only those with a higher `number` (NUMBER of -o json)")
	a.outputFlags(cmd, false)
	return cmd
}

func (a *app) printEvent(r *pouchv1.EventsResponse) error {
	if a.output == "json" {
		b, err := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(r)
		if err != nil {
			return err
		}
		var line bytes.Buffer
		if err := json.Compact(&line, b); err != nil { // protojson varies its spaces on purpose
			return err
		}
		_, err = fmt.Fprintln(a.out, line.String())
		return err
	}
	if r.GetMissed() > 0 {
		if _, err := fmt.Fprintf(a.out, "... %d entries are missing here\n", r.GetMissed()); err != nil {
			return err
		}
	}
	e := r.GetEvent()
	at := time.Unix(0, e.GetTime()).Format("2006-01-02 15:04:05.000")
	_, err := fmt.Fprintln(a.out, strings.TrimRight(fmt.Sprintf("%s  %-14s  %-30s  %s", at, table.Clean(e.GetKind()), table.Clean(subject(e)), table.Clean(detail(e))), " "))
	return err
}

// subject names what an event is about, as NAMESPACE/POD/CONTAINER#ATTEMPT.
func subject(e *pouchv1.Event) string {
	pod := e.GetPodName()
	if e.GetPodNamespace() != "" {
		pod = e.GetPodNamespace() + "/" + pod
	}
	if e.GetContainerName() == "" {
		return orNone(pod)
	}
	return fmt.Sprintf("%s/%s#%d", pod, e.GetContainerName(), e.GetAttempt())
}

// detail says what the kind of an event leaves open.
func detail(e *pouchv1.Event) string {
	var parts []string
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	switch e.GetKind() {
	case "created", "started", "restarted", "upgraded", "pull-failed":
		add("%s", imageOf(e.GetImage()))
	}
	if e.ExitCode != nil {
		add("code %d", e.GetExitCode())
	}
	if e.GetReason() != "" {
		add("%s", e.GetReason())
	}
	if e.OutageMs != nil {
		add("outage %d ms", e.GetOutageMs())
	}
	if e.GetMessage() != "" {
		add("%s", e.GetMessage())
	}
	return strings.Join(parts, ", ")
}
