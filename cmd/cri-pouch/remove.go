package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/cmd/cri-pouch/client"
)

// each does fn for every reference; one that fails does not keep the others from it. What was done is printed.
func (a *app) each(ctx context.Context, refs []string, fn func(c *client.Client, ref string) error) error {
	return a.call(ctx, func(c *client.Client) error {
		var errs []error
		for _, ref := range refs {
			if err := fn(c, ref); err != nil {
				errs = append(errs, err)
				continue
			}
			if _, err := fmt.Fprintln(a.out, ref); err != nil {
				return err
			}
		}
		// Joined errors hide a gRPC status; each is explained by itself.
		for i, err := range errs {
			errs[i] = errors.New(client.Explain(err))
		}
		return errors.Join(errs...)
	})
}

func (a *app) stopCommand() *cobra.Command {
	var timeout int64
	cmd := &cobra.Command{
		Use: "stop CONTAINER...", Short: "Stop containers", Args: atLeast(1, "a container"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.each(cmd.Context(), args, func(c *client.Client, ref string) error {
				container, err := c.Container(cmd.Context(), ref)
				if err != nil {
					return err
				}
				_, err = c.Runtime.StopContainer(cmd.Context(), &runtime.StopContainerRequest{ContainerId: container.GetId(), Timeout: timeout})
				return err
			})
		},
	}
	cmd.Flags().Int64VarP(&timeout, "timeout", "t", 10, "`seconds` between the stop signal and SIGKILL")
	return cmd
}

func (a *app) removeCommand() *cobra.Command {
	var force bool
	root := logRoot()
	cmd := &cobra.Command{
		Use: "rm CONTAINER|POD...", Short: "Remove containers or pods", Args: atLeast(1, "a container or a pod"),
		Long: "Remove containers or pods. A running container, and a pod that is ready or holds containers, need --force.\n" +
			"A name of both a container and its pod means the pod, unless it holds other containers.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.each(cmd.Context(), args, func(c *client.Client, ref string) error {
				return remove(cmd.Context(), c, ref, force, root)
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "also what runs")
	cmd.Flags().StringVar(&root, "log-root", root, "`folder` of the pods' logs, as given to run")
	return cmd
}

func remove(ctx context.Context, c *client.Client, ref string, force bool, root string) error {
	o, err := c.Objects(ctx)
	if err != nil {
		return err
	}
	container, pod, err := o.Either(ref)
	if err != nil {
		return err
	}
	// A name that run gave to both means the whole, as long as there is nothing else in the pod.
	if pod != nil && (container == nil || len(o.In(pod.GetId())) == 1) {
		return removePod(ctx, c, o, pod, force, root)
	}
	if !force && container.GetState() == runtime.ContainerState_CONTAINER_RUNNING {
		return fmt.Errorf("container %s runs: stop it first, or remove it with --force", client.ShortID(container.GetId()))
	}
	_, err = c.Runtime.RemoveContainer(ctx, &runtime.RemoveContainerRequest{ContainerId: container.GetId()})
	return err
}

func removePod(ctx context.Context, c *client.Client, o client.Objects, pod *runtime.PodSandbox, force bool, root string) error {
	if !force {
		if pod.GetState() == runtime.PodSandboxState_SANDBOX_READY {
			return fmt.Errorf("pod %s is ready: stop it with `cri-pouch pods stop`, or remove it with --force", client.ShortID(pod.GetId()))
		}
		for _, x := range o.In(pod.GetId()) {
			return fmt.Errorf("pod %s holds container %s: remove that first, or the pod with --force", client.ShortID(pod.GetId()), client.ShortID(x.GetId()))
		}
	}
	if err := c.RemovePod(ctx, pod.GetId()); err != nil {
		return err
	}
	// Logs of a pod made by run; those of the kubelet's pods stand elsewhere.
	m := pod.GetMetadata()
	return os.RemoveAll(client.PodLogDir(root, m.GetNamespace(), m.GetName(), m.GetUid()))
}

func (a *app) podsStopCommand() *cobra.Command {
	return &cobra.Command{
		Use: "stop POD...", Short: "Stop pods and their containers", Args: atLeast(1, "a pod"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.each(cmd.Context(), args, func(c *client.Client, ref string) error {
				pod, err := c.Pod(cmd.Context(), ref)
				if err != nil {
					return err
				}
				_, err = c.Runtime.StopPodSandbox(cmd.Context(), &runtime.StopPodSandboxRequest{PodSandboxId: pod.GetId()})
				return err
			})
		},
	}
}

func (a *app) podsRemoveCommand() *cobra.Command {
	var force bool
	root := logRoot()
	cmd := &cobra.Command{
		Use: "rm POD...", Short: "Remove pods", Args: atLeast(1, "a pod"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.each(cmd.Context(), args, func(c *client.Client, ref string) error {
				o, err := c.Objects(cmd.Context())
				if err != nil {
					return err
				}
				pod, err := o.Pod(ref)
				if err != nil {
					return err
				}
				return removePod(cmd.Context(), c, o, pod, force, root)
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "also those that are ready or hold containers")
	cmd.Flags().StringVar(&root, "log-root", root, "`folder` of the pods' logs, as given to run")
	return cmd
}
