package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/cmd/cri-pouch/client"
	"github.com/cri-pouch/cri-pouch/cmd/cri-pouch/table"
	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
)

// outputFlags gives cmd -o and, for lists, -q.
func (a *app) outputFlags(cmd *cobra.Command, list bool) {
	formats := "table or json"
	if list {
		formats = "table, json or name (IDs only)"
		cmd.Flags().BoolP("quiet", "q", false, "print IDs only, as -o name")
	}
	cmd.Flags().StringVarP(&a.output, "output", "o", "table", "`format`: "+formats)
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json", "name"}, cobra.ShellCompDirectiveNoFileComp))
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if quiet, err := cmd.Flags().GetBool("quiet"); err == nil && quiet {
			a.output = "name"
		}
		if a.output == "table" || a.output == "json" || a.output == "name" && list {
			return nil
		}
		return usagef("--output is %q, it must be %s", a.output, formats)
	}
}

// listing is what a list command prints: as a table, as its message, or as IDs.
type listing struct {
	header  []string
	rows    [][]string
	message proto.Message
	ids     []string
}

func (a *app) print(l listing) error {
	switch a.output {
	case "json":
		return table.JSON(a.out, l.message)
	case "name":
		for _, id := range l.ids {
			if _, err := fmt.Fprintln(a.out, table.Clean(id)); err != nil {
				return err
			}
		}
		return nil
	}
	return table.Write(a.out, l.header, l.rows)
}

// word makes "Running" of CONTAINER_RUNNING.
func word(enum, prefix string) string {
	w := strings.TrimPrefix(enum, prefix)
	if w == "NOTREADY" {
		return "NotReady"
	}
	return w[:1] + strings.ToLower(w[1:])
}

// imageName is what the user called the image, if the daemon knows.
func imageName(c *runtime.Container) string {
	name := cmp.Or(c.GetImage().GetUserSpecifiedImage(), c.GetImage().GetImage(), c.GetImageRef())
	if strings.HasPrefix(name, "sha256:") {
		return client.ShortID(name)
	}
	return name
}

func (a *app) podsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "pods", Short: "List pods; stop and remove them", Args: exactly(0, "no arguments (but has the commands stop and rm)"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd.Context(), func(c *client.Client) error {
				l, err := pods(cmd.Context(), c)
				if err != nil {
					return err
				}
				return a.print(l)
			})
		},
	}
	a.outputFlags(cmd, true)
	cmd.AddCommand(a.podsStopCommand(), a.podsRemoveCommand())
	return cmd
}

func pods(ctx context.Context, c *client.Client) (listing, error) {
	l := listing{header: []string{"POD", "NAME", "NAMESPACE", "STATE", "IP", "ATTEMPT", "AGE"}}
	o, err := c.Objects(ctx)
	if err != nil {
		return l, err
	}
	l.message = &runtime.ListPodSandboxResponse{Items: o.Pods}
	for _, p := range o.Pods {
		ip := "-"
		status, err := c.Runtime.PodSandboxStatus(ctx, &runtime.PodSandboxStatusRequest{PodSandboxId: p.GetId()})
		switch {
		case err == nil:
			if s := status.GetStatus(); s.GetLinux().GetNamespaces().GetOptions().GetNetwork() == runtime.NamespaceMode_NODE {
				ip = "host"
			} else if s.GetNetwork().GetIp() != "" {
				ip = s.GetNetwork().GetIp()
			}
		case !client.IsNotFound(err):
			return l, err
		}
		m := p.GetMetadata()
		l.ids = append(l.ids, p.GetId())
		l.rows = append(l.rows, []string{
			client.ShortID(p.GetId()), m.GetName(), m.GetNamespace(), word(p.GetState().String(), "SANDBOX_"), ip,
			fmt.Sprint(m.GetAttempt()), table.Age(p.GetCreatedAt(), time.Now()),
		})
	}
	return l, nil
}

func (a *app) imagesCommand() *cobra.Command {
	var pulls bool
	cmd := &cobra.Command{
		Use: "images", Short: "List images, or the pulls in progress", Args: exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd.Context(), func(c *client.Client) error {
				list := images
				if pulls {
					list = pullsInProgress
				}
				l, err := list(cmd.Context(), c)
				if err != nil {
					return err
				}
				return a.print(l)
			})
		},
	}
	cmd.Flags().BoolVar(&pulls, "pulls", false, "the pulls in progress")
	a.outputFlags(cmd, true)
	return cmd
}

func images(ctx context.Context, c *client.Client) (listing, error) {
	l := listing{header: []string{"IMAGE", "TAG", "ID", "SIZE", "PINNED"}}
	resp, err := c.Images.ListImages(ctx, &runtime.ListImagesRequest{})
	if err != nil {
		return l, err
	}
	slices.SortStableFunc(resp.GetImages(), func(a, b *runtime.Image) int { return cmp.Compare(anyName(a), anyName(b)) })
	l.message = resp
	for _, i := range resp.GetImages() {
		l.ids = append(l.ids, i.GetId())
		pinned := ""
		if i.GetPinned() {
			pinned = "yes"
		}
		names := i.GetRepoTags()
		if len(names) == 0 {
			names = []string{anyName(i)}
		}
		for _, n := range names {
			name, tag := splitTag(n)
			l.rows = append(l.rows, []string{name, tag, client.ShortID(i.GetId()), table.Size(i.GetSize()), pinned})
		}
	}
	return l, nil
}

// anyName gives the first name of an image, for lists: a tag, else a digest.
func anyName(i *runtime.Image) string {
	for _, n := range append(slices.Clone(i.GetRepoTags()), i.GetRepoDigests()...) {
		return n
	}
	return "<none>"
}

// splitTag parts repository and tag; an image known by digest only has "<none>".
func splitTag(name string) (repo, tag string) {
	if repo, _, ok := strings.Cut(name, "@"); ok {
		return repo, "<none>"
	}
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		return name[:i], name[i+1:]
	}
	return name, "<none>"
}

func pullsInProgress(ctx context.Context, c *client.Client) (listing, error) {
	l := listing{header: []string{"IMAGE", "DONE", "SIZE", "LAYERS", "AGE"}}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.Pouch.WatchPulls(ctx, &pouchv1.WatchPullsRequest{})
	if err != nil {
		return l, err
	}
	resp, err := stream.Recv()
	if err != nil {
		return l, err
	}
	l.message = resp
	for _, p := range resp.GetPulls() {
		l.ids = append(l.ids, p.GetReference())
		l.rows = append(l.rows, []string{
			p.GetReference(), table.Size(uint64(max(p.GetBytesDone(), 0))), table.Size(uint64(max(p.GetBytesTotal(), 0))),
			fmt.Sprintf("%d/%d", p.GetLayersUnpacked(), p.GetLayersTotal()), table.Age(p.GetStartedAt(), time.Now()),
		})
	}
	return l, nil
}
