package shim

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/boundlog"
	"github.com/cri-pouch/cri-pouch/internal/pollfile"
	"github.com/cri-pouch/cri-pouch/internal/richrun"
)

// richStreams are those of a rich container. The log and the attached clients have the application's streams: FIFOs in the
// bundle that the launcher opens in the container, or a terminal. What the init itself prints goes to a bounded file.
type richStreams struct {
	followers []*follower
	// writers and reader stand in for the application's ends of the FIFOs until it has opened its own.
	writers []*pollfile.File
	reader  *pollfile.File
	stdin   inlet
	tty     *console // the application's; nil: it has none
	initLog *boundlog.File
	console *console // the init's

	c  *container
	lp *libcontainer.Process
}

// newRichStreams opens the FIFOs of the bundle and gives the init a console of its own.
func newRichStreams(c *container, lp *libcontainer.Process) (_ *richStreams, theirs *childFiles, err error) {
	r := &richStreams{c: c, lp: lp}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	if c.terminal {
		r.tty = &console{}
		c.audience.pace = true
		r.tty.logTo(c.logFile, &c.audience, c.options.GetStdin())
	} else if err := r.openFIFOs(); err != nil {
		return nil, nil, err
	}
	if r.initLog, err = boundlog.Open(filepath.Join(c.bundle, richrun.InitLog), richrun.InitLogMax); err != nil {
		return nil, nil, err
	}
	// An init speaks to /dev/console, and systemd to nothing that is no terminal.
	if r.console, theirs, err = newConsole(lp); err != nil {
		return nil, nil, err
	}
	r.console.output = func(master *pollfile.File) *follower {
		return newFollower(master, unixLines{r.initLog}, func() { _ = r.initLog.Close() })
	}
	return r, theirs, nil
}

func (r *richStreams) openFIFOs() error {
	dir := filepath.Join(r.c.bundle, richrun.Dir)
	for name, file := range map[string]string{"stdout": richrun.StdoutFIFO, "stderr": richrun.StderrFIFO} {
		path := filepath.Join(dir, file)
		reader, err := openFIFO(path, unix.O_RDONLY)
		if err != nil {
			return err
		}
		stream := r.c.logFile.Stream(name)
		r.followers = append(r.followers, newFollower(reader, r.c.audience.tee(name, stream), stream.End))
		writer, err := openFIFO(path, unix.O_WRONLY)
		if err != nil {
			return err
		}
		r.writers = append(r.writers, writer)
	}
	if r.c.options.GetStdin() {
		return r.openStdin(filepath.Join(dir, richrun.StdinFIFO))
	}
	return nil
}

// unixLines takes the carriage returns away that a terminal puts before each newline.
type unixLines struct{ to io.Writer }

func (u unixLines) Write(p []byte) (int, error) {
	if _, err := u.to.Write(bytes.ReplaceAll(p, []byte{'\r'}, nil)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// receive takes the init's console and makes the application's terminal, once libcontainer says that the process is made.
func (r *richStreams) receive() error {
	if err := r.console.receive(); err != nil || r.tty == nil {
		return err
	}
	pid, err := r.lp.Pid()
	if err != nil {
		return fmt.Errorf("find the new process: %w", err)
	}
	at, err := r.tty.make(pid, r.c.rich.plan.AppUID)
	if err != nil {
		return fmt.Errorf("make the application's terminal: %w", err)
	}
	link := filepath.Join(r.c.bundle, richrun.Dir, richrun.TerminalLink)
	if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("make the application's terminal: %w", err)
	}
	if err := os.Symlink(at, link); err != nil {
		return fmt.Errorf("make the application's terminal: %w", err)
	}
	return nil
}

func (r *richStreams) openStdin(path string) (err error) {
	if r.reader, err = openFIFO(path, unix.O_RDONLY); err != nil {
		return err
	}
	if r.stdin.base, err = openFIFO(path, unix.O_WRONLY); err != nil {
		return fmt.Errorf("stdin: %w", err)
	}
	r.stdin.owned = true
	return nil
}

func (r *richStreams) start() {
	for _, f := range r.followers {
		f.start()
	}
	if r.tty != nil {
		r.tty.start()
	}
	r.console.start()
}

func (r *richStreams) drain() {
	r.letGo()
	deadline := time.Now().Add(drainLimit)
	for _, f := range r.followers {
		f.finish(deadline)
	}
	if r.tty != nil {
		r.tty.drain()
	}
	r.console.drain()
	_ = r.closeStdin()
}

// letGo closes the stand-ins: the end of the application's processes is then the end of the streams.
func (r *richStreams) letGo() {
	for _, w := range r.writers {
		_ = w.Close()
	}
	r.writers = nil
	if r.reader != nil {
		_ = r.reader.Close()
		r.reader = nil
	}
}

func (r *richStreams) close() {
	r.letGo()
	for _, f := range r.followers {
		_ = f.from.Close()
	}
	_ = r.closeStdin()
	if r.tty != nil {
		r.tty.close()
	}
	if r.console != nil {
		r.console.close()
	}
	if r.initLog != nil {
		_ = r.initLog.Close()
	}
}

func (r *richStreams) closeStdin() error {
	if r.tty != nil {
		return r.tty.closeStdin()
	}
	return r.stdin.close()
}

func (r *richStreams) input() *inlet {
	if r.tty != nil {
		return r.tty.input()
	}
	return &r.stdin
}

func (r *richStreams) resize(width, height uint16) error {
	if r.tty == nil {
		return errNoTerminal
	}
	return r.tty.resize(width, height)
}
