// Command containerd-shim-pouch-v2 runs the containers of a node. The daemon starts it; it outlives the daemon. It is
// executed again, as "init", inside each container that it starts, so it is kept small.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"syscall"

	_ "github.com/opencontainers/cgroups/devices" // device rules for libcontainer
	"github.com/opencontainers/runc/libcontainer"
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // enters namespaces before Go's runtime has threads
	"github.com/sirupsen/logrus"

	"github.com/cri-pouch/cri-pouch/internal/boundlog"
	"github.com/cri-pouch/cri-pouch/internal/crash"
	"github.com/cri-pouch/cri-pouch/internal/shimstate"
	"github.com/cri-pouch/cri-pouch/shim"
)

// version is set by the linker.
var version = "unknown"

// logLimit is the size in bytes at which the shim's log is rotated, once.
const logLimit = 4 << 20

func init() {
	if len(os.Args) > 1 && os.Args[1] == "init" {
		libcontainer.Init() // becomes the container's program and never returns
	}
	if len(os.Args) > 1 && os.Args[1] == shim.StandInRole {
		shim.StandIn()
	}
	// libcontainer locks routines to threads and lets them die with them. The main thread does not die: the process
	// would be left in a container's mount namespace. So nothing but main may run on it.
	runtime.LockOSThread()
}

func main() {
	a, err := parseArguments(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "containerd-shim-pouch-v2:", err)
		os.Exit(2)
	}
	if a.version {
		fmt.Println(version)
		return
	}
	done := make(chan error, 1)
	go func() { done <- serve(a.state, a.debug) }()
	if err := <-done; err != nil {
		fmt.Fprintln(os.Stderr, "containerd-shim-pouch-v2:", err)
		os.Exit(1)
	}
}

func serve(state string, verbose bool) error {
	outliveSignals()
	debug.SetGCPercent(30) // memory for CPU: the shim is idle nearly always
	syscall.Umask(0o022)
	dir := shimstate.Of(state)
	if err := dir.Make(); err != nil {
		return err
	}
	file, err := boundlog.Open(dir.Log(), logLimit)
	if err != nil {
		return err
	}
	logrus.SetOutput(file) // libcontainer logs there too
	logrus.SetFormatter(formatter{&logrus.TextFormatter{DisableColors: true, FullTimestamp: true}})
	if verbose {
		logrus.SetLevel(logrus.DebugLevel)
	}
	log := logrus.NewEntry(logrus.StandardLogger())
	server, err := shim.New(shim.Options{StateDir: state, Log: log})
	if err != nil {
		return err
	}
	if err := file.CatchStderr(); err != nil { // containers are more than the last words of the shim
		log.WithError(err).Error("the text of a crash will not stand here")
	}
	var panics atomic.Uint64
	logrus.AddHook(crash.Counter{Count: func(string) uint64 { return panics.Add(1) }})
	log.WithField("pid", os.Getpid()).WithField("version", version).Info("shim serves")
	err = server.Serve(context.Background())
	log.WithError(err).Info("shim ends")
	return err
}

// outliveSignals keeps the shim running when its terminal or its service manager ends the daemon: it ends on Shutdown, or
// by itself once nobody can need it. The signals are caught and not ignored, since ignoring is inherited by containers.
func outliveSignals() {
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGPIPE)
	go func() {
		for range caught {
		}
	}()
}
