package main

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/cmd/cri-pouch/client"
	"github.com/cri-pouch/cri-pouch/cmd/cri-pouch/remote"
)

func (a *app) forwardCommand() *cobra.Command {
	var address string
	cmd := &cobra.Command{
		Use: "port-forward [flags] POD [LOCAL:]REMOTE...", Short: "Reach TCP ports of a pod on this machine", Args: atLeast(2, "a pod and a port"),
		Long: "Listen on local ports and lead their connections to ports of the pod, until Ctrl-C. A LOCAL of 0 takes a free port.",
		RunE: func(cmd *cobra.Command, args []string) error {
			var ports []forwardedPort
			for _, arg := range args[1:] {
				p, err := parsePort(arg)
				if err != nil {
					return err
				}
				ports = append(ports, p)
			}
			return a.call(cmd.Context(), func(c *client.Client) error {
				return a.forward(cmd.Context(), c, args[0], address, ports)
			})
		},
	}
	cmd.Flags().StringVar(&address, "address", "127.0.0.1", "local `IP` to listen on")
	return cmd
}

// forwardedPort leads from a local port (0: any) to one of the pod.
type forwardedPort struct{ local, remote uint16 }

func parsePort(arg string) (p forwardedPort, err error) {
	local, remote, both := strings.Cut(arg, ":")
	if !both {
		remote = local
	}
	number := func(text string, lowest uint64) uint16 {
		n, parseErr := strconv.ParseUint(text, 10, 16)
		if (parseErr != nil || n < lowest) && err == nil {
			err = usagef("%q is no pair of ports, write as in 8080:80 or 80", arg)
		}
		return uint16(n)
	}
	p.remote = number(remote, 1)
	p.local = number(local, 0)
	return p, err
}

func (a *app) forward(ctx context.Context, c *client.Client, ref, address string, ports []forwardedPort) error {
	pod, err := c.Pod(ctx, ref)
	if err != nil {
		return err
	}
	req := &runtime.PortForwardRequest{PodSandboxId: pod.GetId()}
	for _, p := range ports {
		req.Port = append(req.Port, int32(p.remote))
	}
	resp, err := c.Runtime.PortForward(ctx, req)
	if err != nil {
		return err
	}
	tunnel, err := remote.Forward(ctx, resp.GetUrl())
	if err != nil {
		return err
	}
	defer tunnel.Close()
	for _, p := range ports {
		l, err := net.Listen("tcp", net.JoinHostPort(address, strconv.Itoa(int(p.local))))
		if err != nil {
			return err
		}
		defer l.Close()
		fmt.Fprintf(a.out, "%s -> %s:%d\n", l.Addr(), pod.GetMetadata().GetName(), p.remote)
		go tunnel.Serve(l, p.remote, func(err error) { fmt.Fprintf(a.err, "cri-pouch: %s\n", client.Explain(err)) })
	}
	select {
	case <-ctx.Done():
		return nil
	case <-tunnel.Done():
		return fmt.Errorf("the connection to the daemon ended, it serves no port-forward across its restart: run the command again")
	}
}
