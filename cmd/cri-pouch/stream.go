package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/cmd/cri-pouch/client"
	"github.com/cri-pouch/cri-pouch/cmd/cri-pouch/remote"
)

func (a *app) execCommand() *cobra.Command {
	var timeout int64
	var stdin, tty bool
	cmd := &cobra.Command{
		Use: "exec [flags] CONTAINER COMMAND [ARG...]", Short: "Run a command in a container", Args: atLeast(2, "a container and a command"),
		Long: "Run a command in a container and end with its exit code.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if timeout != 0 && (stdin || tty) {
				return usagef("--timeout is for commands without -i and -t")
			}
			return a.call(cmd.Context(), func(c *client.Client) error {
				container, err := c.Container(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				if timeout != 0 {
					return a.execSync(cmd.Context(), c, container.GetId(), args[1:], timeout)
				}
				return a.stream(cmd.Context(), stdin, tty, nil, func(ctx context.Context) (string, error) {
					resp, err := c.Runtime.Exec(ctx, &runtime.ExecRequest{
						ContainerId: container.GetId(), Cmd: args[1:], Tty: tty, Stdin: stdin, Stdout: true, Stderr: !tty,
					})
					return resp.GetUrl(), err
				})
			})
		},
	}
	cmd.Flags().SetInterspersed(false)
	cmd.Flags().BoolVarP(&stdin, "stdin", "i", false, "give it this program's stdin")
	cmd.Flags().BoolVarP(&tty, "tty", "t", false, "give it a terminal")
	cmd.Flags().Int64Var(&timeout, "timeout", 0, "`seconds` after which the daemon kills it; its output is printed when it has ended (default: never)")
	return cmd
}

// execSync runs a command whose end the daemon sees to.
func (a *app) execSync(ctx context.Context, c *client.Client, id string, argv []string, timeout int64) error {
	resp, err := c.Runtime.ExecSync(ctx, &runtime.ExecSyncRequest{ContainerId: id, Cmd: argv, Timeout: timeout})
	if err != nil {
		return err
	}
	if _, err := a.out.Write(resp.GetStdout()); err != nil {
		return err
	}
	if _, err := a.err.Write(resp.GetStderr()); err != nil {
		return err
	}
	return codeOf(resp.GetExitCode())
}

func (a *app) attachCommand() *cobra.Command {
	var stdin, tty bool
	cmd := &cobra.Command{
		Use: "attach [flags] CONTAINER", Short: "Attach to a container's first process", Args: exactly(1, "one container"),
		Long: "Print what the container writes from now on until it ends; with -i it also gets this program's stdin.\n" +
			"With -t the keys Ctrl-P Ctrl-Q detach. A reader that falls too far behind is detached: the container does not wait.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd.Context(), func(c *client.Client) error {
				container, err := c.Container(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				var keys []byte
				if stdin && tty {
					keys = []byte{'P' - '@', 'Q' - '@'}
				}
				return a.stream(cmd.Context(), stdin, tty, keys, func(ctx context.Context) (string, error) {
					resp, err := c.Runtime.Attach(ctx, &runtime.AttachRequest{
						ContainerId: container.GetId(), Tty: tty, Stdin: stdin, Stdout: true, Stderr: !tty,
					})
					return resp.GetUrl(), err
				})
			})
		},
	}
	cmd.Flags().BoolVarP(&stdin, "stdin", "i", false, "give it this program's stdin")
	cmd.Flags().BoolVarP(&tty, "tty", "t", false, "the container has a terminal: follow this one's size and keys")
	return cmd
}

// errDetached ends a stream from this side.
var errDetached = errors.New("detached")

// stream opens the URL that ask gives and connects it with the program's streams; a terminal here is put into raw mode
// meanwhile. keys detach.
func (a *app) stream(ctx context.Context, stdin, tty bool, keys []byte, ask func(context.Context) (string, error)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s := remote.Streams{Out: a.out, TTY: tty}
	if !tty {
		s.Err = a.err
	}
	if stdin {
		s.In = a.in
	}
	if len(keys) > 0 {
		s.In = &detachReader{from: a.in, keys: keys, detach: func() { cancel(errDetached) }}
	}
	url, err := ask(ctx)
	if err != nil {
		return err
	}
	if tty {
		sizes, restore, err := a.rawTerminal(ctx)
		if err != nil {
			return err
		}
		defer restore()
		s.Sizes = sizes
	}
	code, err := remote.Run(ctx, url, s)
	if err != nil {
		if errors.Is(context.Cause(ctx), errDetached) {
			return nil
		}
		return err
	}
	return codeOf(int32(code))
}

// rawTerminal puts the program's terminal into raw mode, where it has one, and follows its size.
func (a *app) rawTerminal(ctx context.Context) (sizes <-chan remote.Size, restore func(), err error) {
	in, ok := a.in.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return nil, func() {}, nil
	}
	before, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return nil, nil, fmt.Errorf("put the terminal into raw mode: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	to := make(chan remote.Size)
	go func() {
		for {
			if width, height, err := term.GetSize(int(in.Fd())); err == nil {
				select {
				case to <- remote.Size{Width: uint16(width), Height: uint16(height)}:
				case <-ctx.Done():
					return
				}
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
	return to, func() {
		signal.Stop(changed)
		cancel()
		_ = term.Restore(int(in.Fd()), before)
	}, nil
}

// detachReader passes on what is typed until the keys are, one after the other. A part of them that something else
// follows is passed on.
type detachReader struct {
	from   io.Reader
	keys   []byte
	detach func()
	held   int // how many of the keys have been typed
}

// Read is io.Reader's.
func (d *detachReader) Read(p []byte) (int, error) {
	if len(p) <= len(d.keys) {
		return 0, io.ErrShortBuffer
	}
	typed := make([]byte, len(p)-len(d.keys))
	n, err := d.from.Read(typed)
	out := p[:0]
	for _, b := range typed[:n] {
		if b == d.keys[d.held] {
			if d.held++; d.held == len(d.keys) {
				d.detach()
				return len(out), io.EOF
			}
			continue
		}
		out = append(out, d.keys[:d.held]...)
		d.held = 0
		if b == d.keys[0] {
			d.held = 1
			continue
		}
		out = append(out, b)
	}
	return len(out), err
}
