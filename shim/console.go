package shim

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/crash"
	"github.com/cri-pouch/cri-pouch/internal/crilog"
	"github.com/cri-pouch/cri-pouch/internal/pollfile"
)

// console is a terminal: the process has the slave, the shim the master.
type console struct {
	socket *os.File // where runc's init sends the master
	master *pollfile.File
	slave  *os.File                              // ours: an init closes its console while it has nothing to say, and without any slave reading ends for good
	output func(master *pollfile.File) *follower // made when the master is there
	out    *follower
	from   *pollfile.File // FIFO whose content goes to the master; nil: none
	to     *pollfile.File // FIFO that the output goes to; nil: elsewhere
	typing chan struct{}
	stdin  inlet // of a container's terminal
}

// newConsole asks libcontainer for a terminal; receive must be called when the process has been made.
func newConsole(lp *libcontainer.Process) (*console, *childFiles, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket for the terminal: %w", err)
	}
	theirs := &childFiles{}
	lp.ConsoleSocket = os.NewFile(uintptr(fds[1]), "console")
	theirs.add(lp.ConsoleSocket)
	return &console{socket: os.NewFile(uintptr(fds[0]), "console")}, theirs, nil
}

// logTo leads the output into a container's log, as stdout, and to its audience. With stdin, clients may type.
func (c *console) logTo(log *crilog.File, to *audience, stdin bool) {
	stream := log.Stream("stdout")
	tee := to.tee("stdout", stream)
	c.output = func(master *pollfile.File) *follower {
		if stdin {
			c.stdin.base = master
		}
		return newFollower(master, tee, stream.End)
	}
}

// connect leads the terminal to the caller's FIFOs, either of which may be empty.
func (c *console) connect(stdin, stdout string) error {
	if stdin != "" {
		f, err := openFIFO(stdin, unix.O_RDONLY)
		if err != nil {
			return err
		}
		c.from = f
	}
	var to io.Writer = io.Discard
	end := func() {}
	if stdout != "" {
		f, err := openFIFO(stdout, unix.O_WRONLY)
		if err != nil {
			c.close()
			return err
		}
		c.to = f
		to, end = &carefree{w: f}, func() { f.Close() }
		c.output = func(master *pollfile.File) *follower { return newFollower(master, to, end) }
		return nil
	}
	c.output = func(master *pollfile.File) *follower { return newFollower(master, to, end) }
	return nil
}

// carefree drops everything after the first error: a reader that has gone must not stop the process.
type carefree struct {
	w      io.Writer
	failed bool
}

func (c *carefree) Write(p []byte) (int, error) {
	if !c.failed {
		_, err := c.w.Write(p)
		c.failed = err != nil
	}
	return len(p), nil
}

// receive takes the master that runc's init has sent: it is there once libcontainer says that the process is made.
func (c *console) receive() error {
	defer func() {
		c.socket.Close()
		c.socket = nil
	}()
	name, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	raw, err := c.socket.SyscallConn()
	if err != nil {
		return fmt.Errorf("receive terminal: %w", err)
	}
	var oobn int
	var recvErr error
	err = raw.Control(func(fd uintptr) {
		_, oobn, _, _, recvErr = unix.Recvmsg(int(fd), name, oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	})
	if err = errors.Join(err, recvErr); err != nil {
		return fmt.Errorf("receive terminal: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) != 1 {
		return fmt.Errorf("receive terminal: %d messages, %v", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return fmt.Errorf("receive terminal: %d descriptors, %v", len(fds), err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		return fmt.Errorf("receive terminal: %w", err)
	}
	return c.take(fds[0])
}

// take makes a master the console's.
func (c *console) take(master int) error {
	c.master = pollfile.New(master, "terminal")
	c.out = c.output(c.master)
	slave, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return fmt.Errorf("open the terminal's slave: %w", errno)
	}
	c.slave = os.NewFile(slave, "slave of terminal")
	return nil
}

// make makes a terminal in a container whose init has not run its program yet, for a user (host ID), and gives its path
// there. Besides libcontainer nobody has been in that mount namespace; but a mount of the pod's may be at /dev.
func (c *console) make(pid, uid int) (path string, err error) {
	root, err := unix.Open(fmt.Sprintf("/proc/%d/root", pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("open root filesystem: %w", err)
	}
	defer unix.Close(root)
	at, err := unix.Openat2(root, "dev/pts/ptmx", &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return "", fmt.Errorf("open /dev/pts/ptmx: %w", err)
	}
	defer unix.Close(at)
	var st unix.Statfs_t
	if err := unix.Fstatfs(at, &st); err != nil {
		return "", fmt.Errorf("look at /dev/pts: %w", err)
	}
	if st.Type != unix.DEVPTS_SUPER_MAGIC {
		return "", fmt.Errorf("what the pod mounts at /dev/pts has no terminals: %w", errdefs.ErrInvalidArgument)
	}
	master, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", at), unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("open /dev/pts/ptmx: %w", err)
	}
	number, err := unix.IoctlGetInt(master, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = plainNewlines(master)
	}
	if err != nil {
		unix.Close(master)
		return "", fmt.Errorf("set up: %w", err)
	}
	if err := c.take(master); err != nil {
		return "", err
	}
	if err := c.slave.Chown(uid, -1); err != nil {
		return "", fmt.Errorf("give it to its user: %w", err)
	}
	return fmt.Sprintf("/dev/pts/%d", number), nil
}

// plainNewlines leaves newlines as they are, as libcontainer does with the terminals that it makes.
func plainNewlines(master int) error {
	t, err := unix.IoctlGetTermios(master, unix.TCGETS)
	if err != nil {
		return err
	}
	t.Oflag &^= unix.ONLCR
	return unix.IoctlSetTermios(master, unix.TCSETS, t)
}

func (c *console) start() {
	c.out.start()
	if c.from == nil || c.typing != nil {
		return
	}
	c.typing = make(chan struct{})
	crash.Go(nil, "copy a caller's input", func() {
		defer close(c.typing)
		_, _ = io.Copy(c.master, c.from)
	})
}

func (c *console) drain() {
	c.release()
	_ = c.stdin.close()
	c.out.finish(time.Now().Add(drainLimit)) // closes the master
	c.close()
}

// release lets the output end once nobody in the container has the terminal open any more.
func (c *console) release() {
	if c.slave != nil {
		_ = c.slave.Close()
		c.slave = nil
	}
}

// close lets go of what is open. The master is closed by its follower, if it came to that.
func (c *console) close() {
	c.release()
	_ = c.stdin.close()
	if c.from != nil {
		_ = c.from.Close()
	}
	if c.typing != nil {
		<-c.typing
	}
	if c.socket != nil {
		_ = c.socket.Close()
	}
	if c.out == nil {
		return
	}
	_ = c.master.Close()
}

func (c *console) input() *inlet { return &c.stdin }

// closeStdin takes nothing more from clients; a terminal has no end of file, its program goes on.
func (c *console) closeStdin() error {
	if err := c.stdin.close(); err != nil {
		return err
	}
	if c.from == nil {
		return nil
	}
	return c.from.Close()
}

func (c *console) resize(width, height uint16) error {
	raw, err := c.master.SyscallConn()
	if err != nil {
		return fmt.Errorf("resize terminal: %w", err)
	}
	var ioctlErr error
	err = raw.Control(func(fd uintptr) {
		ioctlErr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: height, Col: width})
	})
	if errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("resize terminal: it is dead: %w", errdefs.ErrFailedPrecondition)
	}
	if err = errors.Join(err, ioctlErr); err != nil {
		return fmt.Errorf("resize terminal: %w", err)
	}
	return nil
}
