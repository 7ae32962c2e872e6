package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/cmd/cri-pouch/client"
	"github.com/cri-pouch/cri-pouch/cmd/cri-pouch/table"
)

func (a *app) inspectCommand() *cobra.Command {
	var kind string
	cmd := &cobra.Command{
		Use: "inspect CONTAINER|POD|IMAGE", Short: "Print all that is known of a container, pod or image, as JSON", Args: exactly(1, "one container, pod or image"),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch kind {
			case "", "container", "pod", "image":
			default:
				return usagef("--type is %q, it must be container, pod or image", kind)
			}
			return a.call(cmd.Context(), func(c *client.Client) error { return a.inspect(cmd.Context(), c, kind, args[0]) })
		},
	}
	cmd.Flags().StringVar(&kind, "type", "", "what the name means: container, pod or image (default: the first that fits)")
	return cmd
}

func (a *app) inspect(ctx context.Context, c *client.Client, kind, ref string) error {
	var container *runtime.Container
	var pod *runtime.PodSandbox
	if kind != "image" {
		o, err := c.Objects(ctx)
		if err != nil {
			return err
		}
		switch kind {
		case "container":
			container, err = o.Container(ref)
		case "pod":
			pod, err = o.Pod(ref)
		default:
			container, pod, err = o.Either(ref)
			if client.IsNotFound(err) {
				err = nil // it may be an image
			}
		}
		if err != nil {
			return err
		}
	}
	switch {
	case container != nil:
		resp, err := c.Runtime.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: container.GetId(), Verbose: true})
		if err != nil {
			return err
		}
		return table.JSONWithInfo(a.out, "status", resp.GetStatus(), resp.GetInfo())
	case pod != nil:
		resp, err := c.Runtime.PodSandboxStatus(ctx, &runtime.PodSandboxStatusRequest{PodSandboxId: pod.GetId(), Verbose: true})
		if err != nil {
			return err
		}
		return table.JSONWithInfo(a.out, "status", resp.GetStatus(), resp.GetInfo())
	}
	resp, err := c.Image(ctx, ref, true)
	if client.IsNotFound(err) && kind == "" {
		return &client.NotFoundError{Kind: "container, pod or image", Ref: ref}
	}
	if err != nil {
		return err
	}
	return table.JSONWithInfo(a.out, "image", resp.GetImage(), resp.GetInfo())
}

func (a *app) statusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "status", Short: "Say whether the daemon can run pods, and if not, why", Args: exactly(0, "no arguments"),
		Long: "Print the daemon's conditions with reason and fix, and what it has left alone because it did not understand it.\n" +
			"Ends with 1 if a condition does not hold.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd.Context(), func(c *client.Client) error {
				resp, err := c.Runtime.Status(cmd.Context(), &runtime.StatusRequest{Verbose: a.output == "json"})
				if err != nil {
					return err
				}
				l := listing{header: []string{"CONDITION", "STATUS", "REASON", "MESSAGE"}}
				failed := false
				for _, x := range resp.GetStatus().GetConditions() {
					state := "true"
					if !x.GetStatus() {
						state, failed = "false", true
					}
					l.rows = append(l.rows, []string{x.GetType(), state, x.GetReason(), x.GetMessage()})
				}
				if a.output == "json" {
					err = table.JSONWithInfo(a.out, "status", resp.GetStatus(), resp.GetInfo())
				} else {
					err = errors.Join(a.print(l), a.printFindings(cmd, c))
				}
				if err == nil && failed {
					return exitCode(1)
				}
				return err
			})
		},
	}
	a.outputFlags(cmd, false)
	return cmd
}

func (a *app) versionCommand() *cobra.Command {
	var own bool
	cmd := &cobra.Command{
		Use: "version", Short: "Print the versions of this program and of the daemon", Args: exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := fmt.Fprintln(a.out, "client: cri-pouch "+version); err != nil || own {
				return err
			}
			return a.call(cmd.Context(), func(c *client.Client) error {
				v, err := c.Runtime.Version(cmd.Context(), &runtime.VersionRequest{})
				if err != nil {
					return err
				}
				_, err = fmt.Fprintln(a.out, table.Clean(fmt.Sprintf("daemon: %s %s, CRI %s", v.GetRuntimeName(), v.GetRuntimeVersion(), v.GetRuntimeApiVersion())))
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&own, "client", false, "only this program's, without asking the daemon")
	return cmd
}
