package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/crash"
)

// Dial connects to a TCP port of the pod, as a process inside the pod would: at 127.0.0.1 and, where that is refused, at
// ::1. The port is 1 to 65535. Nobody listening is errdefs.ErrUnavailable, a pod without its namespace
// errdefs.ErrFailedPrecondition.
func (m *Manager) Dial(ctx context.Context, pod Pod, port uint16) (*net.TCPConn, error) {
	v4, v6 := unix.SockaddrInet4{Port: int(port), Addr: [4]byte{127, 0, 0, 1}}, unix.SockaddrInet6{Port: int(port), Addr: [16]byte{15: 1}}
	conn, err := m.dial(ctx, pod, unix.AF_INET, &v4)
	if err == nil {
		return conn, nil
	}
	conn, err6 := m.dial(ctx, pod, unix.AF_INET6, &v6)
	switch {
	case err6 == nil:
		return conn, nil
	case ctx.Err() != nil:
		return nil, fmt.Errorf("connect to port %d of sandbox %s: %w", port, pod.ID, ctx.Err())
	case errdefs.IsFailedPrecondition(err):
		return nil, err
	}
	return nil, fmt.Errorf("connect to port %d of sandbox %s: 127.0.0.1: %w; ::1: %w: %w", port, pod.ID, err, err6, errdefs.ErrUnavailable)
}

// dial makes a socket in the pod's network namespace, which it keeps for good, and connects it from here.
func (m *Manager) dial(ctx context.Context, pod Pod, family int, to unix.Sockaddr) (*net.TCPConn, error) {
	fd, err := m.socketIn(pod, family)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "port-forward")
	defer f.Close()
	if err := connect(ctx, f, to); err != nil {
		return nil, err
	}
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// socketIn makes a socket in the namespace, on a thread that ends with it: no other goroutine can come to run there.
func (m *Manager) socketIn(pod Pod, family int) (fd int, err error) {
	open := func() error {
		fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
		return os.NewSyscallError("socket", err)
	}
	if pod.HostNetwork {
		return fd, open()
	}
	path := m.Namespaces(pod).Net
	err = onThread(func() error {
		if err := enter(path, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace of sandbox %s at %s, is the sandbox gone? %w: %w", pod.ID, path, err, errdefs.ErrFailedPrecondition)
		}
		return open()
	})
	return fd, err
}

// connect waits on the poller until the socket is connected.
func connect(ctx context.Context, f *os.File, to unix.Sockaddr) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, crash.Guard(nil, "give up a connection", func() { f.Close() }))()
	begun := false
	var result error
	err = raw.Write(func(fd uintptr) bool {
		if !begun {
			begun = true
			result = unix.Connect(int(fd), to)
			return !errors.Is(result, unix.EINPROGRESS)
		}
		code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		switch result = err; {
		case err != nil:
		case unix.Errno(code) == unix.ECONNRESET:
			return true // it was connected, and is over already: what it has to say can be read
		case code != 0:
			result = unix.Errno(code)
		}
		if result == nil {
			// A wake-up from before the connect says nothing yet.
			if _, err := unix.Getpeername(int(fd)); errors.Is(err, unix.ENOTCONN) {
				return false
			}
		}
		return true
	})
	return errors.Join(err, os.NewSyscallError("connect", result))
}
