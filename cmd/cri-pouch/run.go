package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/cmd/cri-pouch/client"
	"github.com/cri-pouch/cri-pouch/cmd/cri-pouch/progress"
)

// defaultLogRoot is where pods made by `run` have their logs. It is not the kubelet's folder: that one removes there what
// it does not know.
const defaultLogRoot = "/var/log/cri-pouch/pods"

func (a *app) runCommand() *cobra.Command {
	o := client.RunOptions{}
	var mounts, labels, annotations []string
	var entrypoint string
	var detach bool
	cmd := &cobra.Command{
		Use: "run [flags] IMAGE [ARG...]", Short: "Run a container in a new or a present pod", Args: atLeast(1, "an image"),
		Long: "Run a container and print its ID. The pod of --pod is made if there is none; the image is pulled if it is missing.\n" +
			"ARGs replace the image's CMD. A kubelet on the same daemon removes pods that it does not know: run it for containers\n" +
			"on machines without one.",
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			o.Image, o.Args = args[0], args[1:]
			if entrypoint != "" {
				o.Command = []string{entrypoint}
			}
			if o.Mounts, err = parseMounts(mounts); err != nil {
				return err
			}
			if o.Labels, err = parsePairs("--label", labels); err != nil {
				return err
			}
			if o.Annotations, err = parsePairs("--annotation", annotations); err != nil {
				return err
			}
			if err := checkEnv(o.Env); err != nil {
				return err
			}
			return a.call(cmd.Context(), func(c *client.Client) error { return a.run(cmd.Context(), c, o, detach) })
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false) // flags after the image belong to the command
	f.StringVar(&o.Pod, "pod", "", "`name` of the pod (default: the container's name)")
	f.StringVar(&o.Namespace, "namespace", "default", "`namespace` of the pod")
	f.StringVar(&o.Name, "name", "", "`name` of the container (default: made of the image's)")
	f.StringArrayVarP(&o.Env, "env", "e", nil, "environment, `NAME=VALUE`")
	f.StringArrayVarP(&mounts, "mount", "v", nil, "bind mount, `HOST:CONTAINER[:ro]`")
	f.BoolVar(&o.HostNetwork, "host-network", false, "give a new pod the node's network")
	f.StringVar(&o.CgroupParent, "cgroup-parent", "", "parent of the pod's `cgroup`")
	f.StringArrayVarP(&labels, "label", "l", nil, "label of pod and container, `KEY=VALUE`")
	f.StringArrayVar(&annotations, "annotation", nil, "annotation of pod and container, `KEY=VALUE`")
	f.StringVar(&entrypoint, "entrypoint", "", "`program` instead of the image's ENTRYPOINT")
	f.StringVar(&o.Handler, "runtime-handler", "", "runtime `handler` of a new pod")
	f.StringVar(&o.LogRoot, "log-root", logRoot(), "`folder` of the pods' logs (environment: CRI_POUCH_LOG_ROOT)")
	f.BoolVarP(&detach, "detach", "d", true, "return when the container runs; --detach=false prints its output and ends with its code")
	return cmd
}

func (a *app) run(ctx context.Context, c *client.Client, o client.RunOptions, detach bool) error {
	p := progress.New(a.err, o.Image)
	o.Progress = p.Update
	r, err := c.Run(ctx, o)
	p.Done()
	if err != nil {
		return err
	}
	if detach {
		_, err := fmt.Fprintln(a.out, r.ContainerID)
		return err
	}
	follow := func(out, errs io.Writer) error {
		return followLog(ctx, c, r.ContainerID, logOptions{tail: -1}.to(out, errs))
	}
	if err := a.guarded(follow); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return fmt.Errorf("interrupted; container %s goes on, `cri-pouch rm -f %s` removes it", client.ShortID(r.ContainerID), client.ShortID(r.ContainerID))
	}
	status, err := c.Runtime.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: r.ContainerID})
	if err != nil {
		return err
	}
	return codeOf(status.GetStatus().GetExitCode())
}

// codeOf passes on an exit code.
func codeOf(code int32) error {
	if code == 0 {
		return nil
	}
	return exitCode(code)
}

// parseMounts reads HOST:CONTAINER[:ro|rw].
func parseMounts(specs []string) ([]*runtime.Mount, error) {
	var mounts []*runtime.Mount
	for _, s := range specs {
		parts := strings.Split(s, ":")
		if len(parts) < 2 || len(parts) > 3 {
			return nil, usagef("--mount %s: write HOST:CONTAINER or HOST:CONTAINER:ro", s)
		}
		m := &runtime.Mount{HostPath: parts[0], ContainerPath: parts[1]}
		if !filepath.IsAbs(m.HostPath) || !filepath.IsAbs(m.ContainerPath) {
			return nil, usagef("--mount %s: both paths must be absolute", s)
		}
		if len(parts) == 3 {
			switch parts[2] {
			case "ro":
				m.Readonly = true
			case "rw":
			default:
				return nil, usagef("--mount %s: %q is neither ro nor rw", s, parts[2])
			}
		}
		mounts = append(mounts, m)
	}
	return mounts, nil
}

// parsePairs reads KEY=VALUE.
func parsePairs(flag string, pairs []string) (map[string]string, error) {
	m := map[string]string{}
	for _, p := range pairs {
		k, v, ok := strings.Cut(p, "=")
		if !ok || k == "" {
			return nil, usagef("%s %s: write KEY=VALUE", flag, p)
		}
		m[k] = v
	}
	return m, nil
}

func checkEnv(env []string) error {
	for _, e := range env {
		if k, _, ok := strings.Cut(e, "="); !ok || k == "" {
			return usagef("--env %s: write NAME=VALUE", e)
		}
	}
	return nil
}
