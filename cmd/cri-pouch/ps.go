package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/cmd/cri-pouch/client"
	"github.com/cri-pouch/cri-pouch/cmd/cri-pouch/table"
)

func (a *app) psCommand() *cobra.Command {
	var all bool
	var pod, inside string
	cmd := &cobra.Command{
		Use: "ps", Short: "List containers, or what runs inside of a rich one", Args: exactly(0, "no arguments"),
		Long: "List containers. With --units: the services inside of a rich container; where its init cannot list them, the processes,\n" +
			"with the application and components as they are recorded. All of that is the container's own word.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if inside != "" {
				if pod != "" {
					return usagef("--units names a container, as POD/NAME if need be: leave out --pod")
				}
				return a.units(cmd.Context(), inside, all)
			}
			return a.call(cmd.Context(), func(c *client.Client) error {
				o, err := c.Objects(cmd.Context())
				if err != nil {
					return err
				}
				l, err := containers(cmd.Context(), c, o, all, pod)
				if err != nil {
					return err
				}
				return a.print(l)
			})
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "also those that do not run")
	cmd.Flags().StringVar(&pod, "pod", "", "only those of this `pod`")
	cmd.Flags().StringVar(&inside, "units", "", "the services inside of this rich `container`")
	_ = cmd.RegisterFlagCompletionFunc("units", a.completion(0, true, false, false))
	a.outputFlags(cmd, true)
	return cmd
}

func containers(ctx context.Context, c *client.Client, o client.Objects, all bool, pod string) (listing, error) {
	l := listing{header: []string{"CONTAINER", "NAME", "POD", "IMAGE", "STATE", "ATTEMPT", "AGE"}}
	podID := ""
	if pod != "" {
		p, err := o.Pod(pod)
		if err != nil {
			return l, err
		}
		podID = p.GetId()
	}
	shown := slices.DeleteFunc(o.Containers, func(c *runtime.Container) bool {
		return !all && c.GetState() != runtime.ContainerState_CONTAINER_RUNNING || podID != "" && c.GetPodSandboxId() != podID
	})
	l.message = &runtime.ListContainersResponse{Containers: shown}
	for _, x := range shown {
		state, err := containerState(ctx, c, x)
		if err != nil {
			return l, err
		}
		l.ids = append(l.ids, x.GetId())
		l.rows = append(l.rows, []string{
			client.ShortID(x.GetId()), x.GetMetadata().GetName(), o.PodName(x.GetPodSandboxId()), imageName(x), state,
			fmt.Sprint(x.GetMetadata().GetAttempt()), table.Age(x.GetCreatedAt(), time.Now()),
		})
	}
	return l, nil
}

// containerState gives "Running", or "Exited (1)", for which the status is asked: the list has no exit codes.
func containerState(ctx context.Context, c *client.Client, x *runtime.Container) (string, error) {
	state := word(x.GetState().String(), "CONTAINER_")
	if x.GetState() != runtime.ContainerState_CONTAINER_EXITED {
		return state, nil
	}
	resp, err := c.Runtime.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: x.GetId()})
	if client.IsNotFound(err) {
		return state, nil // removed since the list was made
	}
	if err != nil {
		return "", err
	}
	state = fmt.Sprintf("%s (%d)", state, resp.GetStatus().GetExitCode())
	if r := resp.GetStatus().GetReason(); r != "" && r != "Completed" && r != "Error" {
		state += " " + r
	}
	return state, nil
}
