package server

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const socketMode = 0o660

// listen makes the unix socket at path with mode 0660. What a dead daemon left there is replaced; a socket that somebody
// serves, or a file that is no socket, is an error (errdefs.ErrFailedPrecondition). group, if not empty, is given it.
func listen(path, group string) (net.Listener, error) {
	gid := -1
	if group != "" {
		var err error
		if gid, err = lookupGroup(group); err != nil {
			return nil, err
		}
	}
	if _, err := os.Stat(filepath.Dir(path)); errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(path), maxFolderMode); err != nil {
			return nil, fmt.Errorf("make the socket's folder: %w", err)
		}
	}
	if err := clearSocket(path); err != nil {
		return nil, err
	}
	// Until the mode is set, the umask (022, see Serve) leaves the group and others without the write bit that
	// connect(2) asks for.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if err := os.Lchown(path, -1, gid); err != nil {
		l.Close()
		return nil, fmt.Errorf("give socket %s to group %s: %w", path, group, err)
	}
	if err := os.Chmod(path, socketMode); err != nil {
		l.Close()
		return nil, fmt.Errorf("set the mode of socket %s: %w", path, err)
	}
	return l, nil
}

// clearSocket takes away the socket of a daemon that is gone.
func clearSocket(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for an old socket: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is there and no socket: remove it, or give another --socket: %w", path, errdefs.ErrFailedPrecondition)
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		conn.Close()
		return fmt.Errorf("socket %s is served by another process: stop it, or give another --socket: %w", path, errdefs.ErrFailedPrecondition)
	}
	if !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("socket %s does not say whether it is in use: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the old socket: %w", err)
	}
	return nil
}

func lookupGroup(group string) (int, error) {
	if n, err := strconv.ParseUint(group, 10, 31); err == nil {
		return int(n), nil
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		return 0, fmt.Errorf("cri.socket_group: no group %q on this node, make it or name another: %w", group, errdefs.ErrInvalidArgument)
	}
	return strconv.Atoi(g.Gid)
}
