package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/cmd/cri-pouch/client"
	"github.com/cri-pouch/cri-pouch/cmd/cri-pouch/crilog"
	"github.com/cri-pouch/cri-pouch/cmd/cri-pouch/terminal"
	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
)

type logOptions struct {
	follow, timestamps, init bool
	tail                     int
}

func (a *app) logsCommand() *cobra.Command {
	var o logOptions
	cmd := &cobra.Command{
		Use: "logs CONTAINER", Short: "Print a container's output", Args: exactly(1, "one container"),
		Long: "Print what a container has written to stdout and stderr. With --init: what the init that is pid 1 of a rich container\n" +
			"has printed itself; the last 256 to 512 KiB of it are kept as long as the container is there.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.init && (o.follow || o.timestamps) {
				return usagef("--init is for what pid 1 has printed until now, without times: leave out --follow and --timestamps")
			}
			return a.call(cmd.Context(), func(c *client.Client) error {
				container, err := c.Container(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return a.guarded(func(out, errs io.Writer) error {
					switch id := container.GetId(); {
					case o.init:
						return initLog(cmd.Context(), c, id, o.tail, out)
					case o.follow:
						return followLog(cmd.Context(), c, id, o.to(out, errs))
					default:
						path, _, err := logPath(cmd.Context(), c, id)
						if err != nil {
							return err
						}
						return crilog.Print(path, o.to(out, errs))
					}
				})
			})
		},
	}
	cmd.Flags().BoolVar(&o.init, "init", false, "what pid 1 of a rich container has printed itself")
	cmd.Flags().BoolVarP(&o.follow, "follow", "f", false, "go on until the container ends, through rotations")
	cmd.Flags().IntVar(&o.tail, "tail", -1, "only the last `lines`; -1: all")
	cmd.Flags().BoolVarP(&o.timestamps, "timestamps", "t", false, "the time before each line")
	return cmd
}

func (o logOptions) to(out, errs io.Writer) crilog.Options {
	return crilog.Options{Tail: o.tail, Timestamps: o.timestamps, Stdout: out, Stderr: errs}
}

// guarded calls fn with the program's streams; one that is a terminal gets nothing that steers it.
func (a *app) guarded(fn func(out, errs io.Writer) error) error {
	out, endOut := terminal.Guard(a.out)
	errs, endErrs := terminal.Guard(a.err)
	err := fn(out, errs)
	return errors.Join(err, endOut(), endErrs())
}

// initLog prints the last lines of what pid 1 has printed; a negative number means all.
func initLog(ctx context.Context, c *client.Client, id string, lines int, to io.Writer) error {
	resp, err := c.Pouch.InitLog(ctx, &pouchv1.InitLogRequest{ContainerId: id})
	if err != nil {
		return err
	}
	_, err = to.Write(lastLines(resp.GetText(), lines))
	return err
}

// lastLines gives the end of a text; a last line without a newline counts too.
func lastLines(text []byte, n int) []byte {
	if n < 0 {
		return text
	}
	at := len(text)
	for end := bytes.TrimSuffix(text, []byte("\n")); n > 0 && at > 0; n-- {
		at = bytes.LastIndexByte(end, '\n') + 1
		end = end[:max(at-1, 0)]
	}
	return text[at:]
}

// followLog prints a container's log until it has ended.
func followLog(ctx context.Context, c *client.Client, id string, o crilog.Options) error {
	path, _, err := logPath(ctx, c, id)
	if err != nil {
		return err
	}
	return crilog.Follow(ctx, path, o, func(ctx context.Context) (bool, error) {
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
