package shim

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/crilog"
	"github.com/cri-pouch/cri-pouch/internal/pollfile"
)

// fifos are the streams of a container without a terminal. stdout and stderr are FIFOs that the container holds open for
// reading and writing: it gets neither SIGPIPE nor end of file from the death of a reader. stdin is read-only for the
// container, so that it sees an end of file when the last writer is gone.
type fifos struct {
	followers []*follower
	stdin     inlet // without a base: /dev/null
}

// newFIFOs makes the FIFOs in dir and sets the process's streams to them.
func newFIFOs(dir string, stdin bool, log *crilog.File, to *audience, lp *libcontainer.Process) (_ *fifos, _ *childFiles, err error) {
	f, theirs := &fifos{}, &childFiles{}
	defer func() {
		if err != nil {
			theirs.close()
			f.close()
		}
	}()
	for _, name := range []string{"stdout", "stderr"} {
		ours, child, err := outputFIFO(filepath.Join(dir, name))
		if err != nil {
			return nil, nil, err
		}
		theirs.add(child)
		stream := log.Stream(name)
		f.followers = append(f.followers, newFollower(ours, to.tee(name, stream), stream.End))
		if name == "stdout" {
			lp.Stdout = child
		} else {
			lp.Stderr = child
		}
	}
	if stdin {
		child, ours, err := inputFIFO(filepath.Join(dir, "stdin"))
		if err != nil {
			return nil, nil, err
		}
		theirs.add(child)
		lp.Stdin, f.stdin.base, f.stdin.owned = child, ours, true
	}
	return f, theirs, nil
}

// outputFIFO gives the read end and the container's end. Its mode lets a program that has changed its user open
// /dev/stdout again; the folder keeps everybody else out.
func outputFIFO(path string) (ours *pollfile.File, child *os.File, err error) {
	if err := makeFIFO(path, 0o622); err != nil {
		return nil, nil, err
	}
	rd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open FIFO %s: %w", path, err)
	}
	ours = pollfile.New(rd, path)
	rw, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		ours.Close()
		return nil, nil, fmt.Errorf("open FIFO %s: %w", path, err)
	}
	return ours, os.NewFile(uintptr(rw), path), nil
}

// inputFIFO gives the container's end and the write end that the shim keeps.
func inputFIFO(path string) (child *os.File, ours *pollfile.File, err error) {
	if err := makeFIFO(path, 0o644); err != nil {
		return nil, nil, err
	}
	rd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open FIFO %s: %w", path, err)
	}
	wr, err := unix.Open(path, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err == nil {
		err = unix.SetNonblock(rd, false) // programs expect a blocking stdin
	}
	if err != nil {
		unix.Close(rd)
		return nil, nil, fmt.Errorf("open FIFO %s: %w", path, err)
	}
	return os.NewFile(uintptr(rd), path), pollfile.New(wr, path), nil
}

func makeFIFO(path string, mode uint32) error {
	if err := unix.Mkfifo(path, mode); err != nil {
		return fmt.Errorf("make FIFO %s: %w", path, err)
	}
	if err := os.Chmod(path, os.FileMode(mode)); err != nil { // whatever the umask
		return fmt.Errorf("make FIFO %s: %w", path, err)
	}
	return nil
}

func (f *fifos) start() {
	for _, w := range f.followers {
		w.start()
	}
}

func (f *fifos) drain() {
	deadline := time.Now().Add(drainLimit)
	for _, w := range f.followers {
		w.finish(deadline)
	}
	_ = f.closeStdin()
}

// close lets go without reading: the process never came to be.
func (f *fifos) close() {
	for _, w := range f.followers {
		_ = w.from.Close()
	}
	_ = f.closeStdin()
}

func (f *fifos) closeStdin() error { return f.stdin.close() }

func (f *fifos) input() *inlet { return &f.stdin }

func (f *fifos) resize(uint16, uint16) error { return errNoTerminal }

var errNoTerminal = fmt.Errorf("the process has no terminal: %w", errdefs.ErrFailedPrecondition)

// direct are the streams of an exec'd process without a terminal: it has the caller's FIFOs themselves, the shim has
// nothing to do.
type direct struct{}

// newDirect opens the caller's FIFOs for the process. The caller must have opened its ends before.
func newDirect(stdin, stdout, stderr string, lp *libcontainer.Process) (_ streams, _ *childFiles, err error) {
	theirs := &childFiles{}
	defer func() {
		if err != nil {
			theirs.close()
		}
	}()
	if stdin != "" {
		f, err := openChildFIFO(stdin, unix.O_RDONLY)
		if err != nil {
			return nil, nil, err
		}
		theirs.add(f)
		lp.Stdin = f
	}
	if stdout != "" {
		f, err := openChildFIFO(stdout, unix.O_WRONLY)
		if err != nil {
			return nil, nil, err
		}
		theirs.add(f)
		lp.Stdout = f
	}
	if stderr != "" {
		f, err := openChildFIFO(stderr, unix.O_WRONLY)
		if err != nil {
			return nil, nil, err
		}
		theirs.add(f)
		lp.Stderr = f
	}
	return direct{}, theirs, nil
}

// openFIFO opens a FIFO that somebody else has made. It does not wait for the other end.
func openFIFO(path string, flag int) (*pollfile.File, error) {
	fd, err := openFIFODescriptor(path, flag)
	if err != nil {
		return nil, err
	}
	return pollfile.New(fd, path), nil
}

// openChildFIFO opens a FIFO for a process, which expects reads and writes that block.
func openChildFIFO(path string, flag int) (*os.File, error) {
	fd, err := openFIFODescriptor(path, flag)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("open FIFO %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

func openFIFODescriptor(path string, flag int) (int, error) {
	fd, err := unix.Open(path, flag|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENXIO) {
		return -1, fmt.Errorf("FIFO %s has no reader, open it for reading first: %w", path, errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return -1, fmt.Errorf("open FIFO %s: %w", path, err)
	}
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	if err == nil && st.Mode&unix.S_IFMT == unix.S_IFIFO {
		return fd, nil
	}
	unix.Close(fd)
	if err != nil {
		return -1, fmt.Errorf("look at FIFO %s: %w", path, err)
	}
	return -1, fmt.Errorf("%s is not a FIFO: %w", path, errdefs.ErrInvalidArgument)
}

func (direct) input() *inlet               { return nil }
func (direct) start()                      {}
func (direct) drain()                      {}
func (direct) closeStdin() error           { return nil } // the caller holds the write end
func (direct) resize(uint16, uint16) error { return errNoTerminal }
