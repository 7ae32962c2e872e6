package network

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/sirupsen/logrus"
)

const (
	pluginOutputMax = 4 << 20                // bytes of each of a plugin's streams
	pluginDrain     = time.Second            // how long a killed plugin's children may hold its streams open
	pluginBusyWait  = 100 * time.Millisecond // while a plugin is being replaced by another file
	pluginBusyTries = 20
)

// pluginExec runs CNI plugins for libcni. libcni's own way waits for the children of a plugin that it has killed (a
// bridge's host-local that hangs on a lock), takes in output without bound, and cannot be told where stderr goes.
type pluginExec struct {
	version.PluginDecoder
	log *logrus.Entry
}

var _ invoke.Exec = (*pluginExec)(nil)

// ExecPlugin runs the plugin at path and gives what it wrote to stdout. At the end of ctx the plugin is killed with all
// that it started; so it is when this process dies.
func (e *pluginExec) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	var stdout, stderr bounded
	var err error
	for try := 0; ; try++ {
		stdout, stderr = bounded{}, bounded{}
		cmd := exec.CommandContext(ctx, path)
		cmd.Env, cmd.Dir = withoutOurs(environ), "/"
		cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &stdout, &stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
		cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
		cmd.WaitDelay = pluginDrain
		err = runOnOneThread(cmd)
		if !errors.Is(err, syscall.ETXTBSY) || try == pluginBusyTries {
			break
		}
		select {
		case <-time.After(pluginBusyWait):
		case <-ctx.Done():
		}
	}
	if err == nil && !stdout.cut {
		if said := strings.TrimSpace(stderr.String()); said != "" {
			e.log.WithField("plugin", filepath.Base(path)).Debugf("CNI plugin says: %.2000s", said)
		}
		return stdout.Bytes(), nil
	}
	return nil, pluginError(ctx, path, err, &stdout, &stderr)
}

// runOnOneThread keeps the thread that forks until the command has ended: the parent-death signal is sent when that
// thread ends, and those that onThread uses do end.
func runOnOneThread(cmd *exec.Cmd) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return cmd.Run()
}

// FindInPath looks for the plugin in dirs.
func (*pluginExec) FindInPath(plugin string, dirs []string) (string, error) {
	path, err := invoke.FindInPath(plugin, dirs)
	if err != nil {
		return "", fmt.Errorf("CNI plugin %q is not in %s, install it there: %w", plugin, strings.Join(dirs, ", "), errdefs.ErrFailedPrecondition)
	}
	return path, nil
}

// pluginError says why a plugin failed: the error that it printed (CNI spec, section "Error"), or what else is known.
func pluginError(ctx context.Context, path string, err error, stdout, stderr *bounded) error {
	name := filepath.Base(path)
	if ctx.Err() != nil {
		return fmt.Errorf("CNI plugin %s was killed: %w", name, ctx.Err())
	}
	if stdout.cut {
		return fmt.Errorf("CNI plugin %s wrote more than %d bytes: %w", name, pluginOutputMax, errdefs.ErrOutOfRange)
	}
	var said types.Error
	if json.Unmarshal(stdout.Bytes(), &said) == nil && (said.Msg != "" || said.Code != 0) {
		return &said
	}
	text := strings.TrimSpace(stderr.String() + " " + stdout.String())
	return fmt.Errorf("CNI plugin %s: %w (it said %.1000q)", name, err, text)
}

// withoutOurs leaves out of the environment what the service manager meant for the daemon alone.
func withoutOurs(environ []string) []string {
	var list []string
	for _, v := range environ {
		switch name, _, _ := strings.Cut(v, "="); name {
		case "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES":
		default:
			list = append(list, v)
		}
	}
	if os.Getenv("PATH") == "" {
		list = append(list, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin") // plugins call iptables by name
	}
	return list
}

// bounded keeps the first bytes of a stream and notes that there were more.
type bounded struct {
	bytes.Buffer
	cut bool
}

func (b *bounded) Write(p []byte) (int, error) {
	n := len(p)
	if room := pluginOutputMax - b.Len(); len(p) > room {
		p, b.cut = p[:room], true
	}
	_, err := b.Buffer.Write(p)
	return n, err
}
