package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/cmd/cri-pouch/client"
	"github.com/cri-pouch/cri-pouch/cmd/cri-pouch/table"
)

// completionLimit bounds what a shell waits for.
const completionLimit = 2 * time.Second

// completion gives a shell the names of containers, pods and images, as far as asked; at most most of them (0: any number).
// Without a daemon it offers nothing.
func (a *app) completion(most int, containers, pods, images bool) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, prefix string) (names []string, _ cobra.ShellCompDirective) {
		if most > 0 && len(args) >= most {
			return nil, cobra.ShellCompDirectiveDefault
		}
		ctx, cancel := context.WithTimeout(context.Background(), completionLimit)
		defer cancel()
		_ = a.call(ctx, func(c *client.Client) error {
			names = candidates(ctx, c, containers, pods, images)
			return nil
		})
		var fitting []string
		for _, n := range names {
			if strings.HasPrefix(n, prefix) {
				fitting = append(fitting, table.Clean(n))
			}
		}
		return fitting, cobra.ShellCompDirectiveNoFileComp
	}
}

func candidates(ctx context.Context, c *client.Client, containers, pods, images bool) (names []string) {
	seen := map[string]bool{}
	add := func(name string) {
		if name != "" && !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	if containers || pods {
		o, err := c.Objects(ctx)
		if err != nil {
			return nil
		}
		for _, x := range o.Containers {
			if containers {
				add(x.GetMetadata().GetName())
			}
		}
		for _, p := range o.Pods {
			if pods {
				add(p.GetMetadata().GetName())
			}
		}
	}
	if images {
		resp, err := c.Images.ListImages(ctx, &runtime.ListImagesRequest{})
		if err != nil {
			return names
		}
		for _, i := range resp.GetImages() {
			for _, tag := range i.GetRepoTags() {
				add(tag)
			}
		}
	}
	return names
}

// complete sets the completions of all commands that take names.
func (a *app) complete(root *cobra.Command) {
	for path, fn := range map[string]cobra.CompletionFunc{
		"exec": a.completion(1, true, false, false), "attach": a.completion(1, true, false, false), "port-forward": a.completion(1, false, true, false), "logs": a.completion(1, true, false, false), "stop": a.completion(0, true, false, false),
		"rm": a.completion(0, true, true, false), "rmi": a.completion(0, false, false, true), "inspect": a.completion(1, true, true, true),
		"run": a.completion(1, false, false, true), "history": a.completion(1, false, true, false), "stats": a.completion(0, true, true, false), "pods stop": a.completion(0, false, true, false), "pods rm": a.completion(0, false, true, false),
	} {
		if cmd, _, err := root.Find(strings.Fields(path)); err == nil {
			cmd.ValidArgsFunction = fn
		}
	}
}
