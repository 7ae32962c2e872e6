package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/cmd/cri-pouch/client"
	"github.com/cri-pouch/cri-pouch/cmd/cri-pouch/crilog"
)

type logOptions struct {
	follow, timestamps bool
	tail               int
}

func (a *app) logsCommand() *cobra.Command {
	var o logOptions
	cmd := &cobra.Command{
		Use: "logs CONTAINER", Short: "Print a container's output", Args: exactly(1, "one container"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd.Context(), func(c *client.Client) error {
				objects, err := c.Objects(cmd.Context())
				if err != nil {
					return err
				}
				container, err := objects.Container(args[0])
				if err != nil {
					return err
				}
				if o.follow {
					return a.followLog(cmd.Context(), c, container.GetId(), o)
				}
				path, _, err := logPath(cmd.Context(), c, container.GetId())
				if err != nil {
					return err
				}
				return crilog.Print(path, a.logOptions(o))
			})
		},
	}
	cmd.Flags().BoolVarP(&o.follow, "follow", "f", false, "go on until the container ends, through rotations")
	cmd.Flags().IntVar(&o.tail, "tail", -1, "only the last `lines`; -1: all")
	cmd.Flags().BoolVarP(&o.timestamps, "timestamps", "t", false, "the time before each line")
	return cmd
}

func (a *app) logOptions(o logOptions) crilog.Options {
	return crilog.Options{Tail: o.tail, Timestamps: o.timestamps, Stdout: a.out, Stderr: a.err}
}

// followLog prints a container's log until it has ended.
func (a *app) followLog(ctx context.Context, c *client.Client, id string, o logOptions) error {
	path, _, err := logPath(ctx, c, id)
	if err != nil {
		return err
	}
	return crilog.Follow(ctx, path, a.logOptions(o), func(ctx context.Context) (bool, error) {
		_, running, err := logPath(ctx, c, id)
		if ctx.Err() != nil || client.IsNotFound(err) {
			return false, nil
		}
		return running, err
	})
}

// logPath asks where a container's log is, and whether more can come.
func logPath(ctx context.Context, c *client.Client, id string) (path string, running bool, err error) {
	resp, err := c.Runtime.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		return "", false, err
	}
	s := resp.GetStatus()
	if s.GetLogPath() == "" {
		return "", false, fmt.Errorf("container %s has no log: its pod was made without a log folder", client.ShortID(id))
	}
	return s.GetLogPath(), s.GetState() != runtime.ContainerState_CONTAINER_EXITED, nil
}

// logRoot is the folder that `run` makes log folders below.
func logRoot() string {
	if dir := os.Getenv("CRI_POUCH_LOG_ROOT"); dir != "" {
		return dir
	}
	return defaultLogRoot
}
