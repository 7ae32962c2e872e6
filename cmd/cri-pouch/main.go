// Command cri-pouch is the container runtime's daemon (`serve`) and its command line client. Each command is flags in,
// one call, output: what it takes to do that is in the packages below.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/cri-pouch/cri-pouch/cmd/cri-pouch/client"
)

// version is set when linking (-X main.version=…).
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	// The first signal asks; a second one gets the default action and ends the process at once.
	context.AfterFunc(ctx, stop)
	code := run(ctx, os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr})
	stop()
	os.Exit(code)
}

// run executes one command line and gives the exit code: 0, 1 for a failure, 2 for a wrong command line, or what a
// command inside a container ended with.
func run(ctx context.Context, args []string, io streams) int {
	root := newRoot(io)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if code, ok := errors.AsType[exitCode](err); ok {
		return int(code)
	}
	fmt.Fprintln(io.err, "cri-pouch: "+client.Explain(err))
	if errors.Is(err, errUsage) {
		return 2
	}
	return 1
}

// exitCode ends the program with a code and without a message.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }
