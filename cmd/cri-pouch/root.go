package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/cri-pouch/cri-pouch/cmd/cri-pouch/client"
)

// defaultSocket is where `serve` listens if nothing else is said.
const defaultSocket = "/run/cri-pouch/cri-pouch.sock"

// streams are the program's own.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// errUsage is the class of wrong command lines.
var errUsage = errors.New("wrong usage")

// usagef makes an error of a wrong command line.
func usagef(format string, args ...any) error {
	return &usageError{fmt.Sprintf(format, args...)}
}

type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func (e *usageError) Unwrap() error { return errUsage }

// app is what the commands share.
type app struct {
	streams
	socket string
	output string // table, json or name
}

func newRoot(io streams) *cobra.Command {
	a := &app{streams: io}
	root := &cobra.Command{
		Use:   "cri-pouch",
		Short: "A container runtime for the kubelet, with rich containers and upgrades in place",
		Long: "cri-pouch serve is the daemon; all other commands talk to it over its socket.\n" +
			"Containers, pods and images are named by name or by an ID, of which a unique beginning is enough.",
		SilenceErrors: true, SilenceUsage: true,
		Args: knownCommand,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetIn(io.in)
	root.SetOut(io.out)
	root.SetErr(io.err)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usagef("%v, `%s --help` lists all flags", err, c.CommandPath())
	})
	socket := os.Getenv("CRI_POUCH_SOCKET")
	if socket == "" {
		socket = defaultSocket
	}
	root.PersistentFlags().StringVar(&a.socket, "socket", socket, "the daemon's unix `path` (environment: CRI_POUCH_SOCKET)")
	root.AddCommand(a.serveCommand(), a.configCommand(), a.runCommand(), a.psCommand(), a.podsCommand(), a.historyCommand(), a.eventsCommand(), a.hooksCommand(), a.imagesCommand(),
		a.pullCommand(), a.imageCommand(), a.statsCommand(), a.execCommand(), a.attachCommand(), a.forwardCommand(), a.logsCommand(), a.stopCommand(), a.removeCommand(),
		a.removeImageCommand(), a.inspectCommand(), a.statusCommand(), a.repairCommand(), a.versionCommand())
	a.complete(root)
	return root
}

// call connects, runs fn and disconnects.
func (a *app) call(ctx context.Context, fn func(c *client.Client) error) error {
	c, err := client.Dial(ctx, a.socket)
	if err != nil {
		return err
	}
	defer c.Close()
	return fn(c)
}

// group makes a command that only holds others.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: knownCommand, RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	cmd.AddCommand(commands...)
	return cmd
}

// knownCommand refuses what a command with commands does not have.
func knownCommand(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("unknown command %q, `%s --help` lists all", args[0], c.CommandPath())
	}
	return nil
}

// atLeast and exactly check the number of arguments; what names them for the user.
func atLeast(n int, what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) < n {
			return usagef("%s needs %s, see `%s --help`", c.CommandPath(), what, c.CommandPath())
		}
		return nil
	}
}

func exactly(n int, what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != n {
			return usagef("%s takes %s, see `%s --help`", c.CommandPath(), what, c.CommandPath())
		}
		return nil
	}
}
