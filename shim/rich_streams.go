package shim

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/boundlog"
	"github.com/cri-pouch/cri-pouch/internal/crilog"
	"github.com/cri-pouch/cri-pouch/internal/richrun"
)

// richStreams are those of a rich container without a terminal. The log and the attached clients have the application's
// streams, FIFOs in the bundle that the launcher opens in the container; what the init itself prints goes to a bounded file.
type richStreams struct {
	followers []*follower
	// writers and reader stand in for the application's ends of the FIFOs until it has opened its own.
	writers []*os.File
	reader  *os.File
	stdin   inlet
	initLog *boundlog.File
	console *console // the init's
}

// newRichStreams opens the FIFOs of the bundle and gives the init a console of its own.
func newRichStreams(bundle string, stdin bool, log *crilog.File, to *audience, lp *libcontainer.Process) (_ *richStreams, theirs *childFiles, err error) {
	r := &richStreams{}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	for name, file := range map[string]string{"stdout": richrun.StdoutFIFO, "stderr": richrun.StderrFIFO} {
		path := filepath.Join(bundle, richrun.Dir, file)
		reader, err := openFIFO(path, unix.O_RDONLY, false)
		if err != nil {
			return nil, nil, err
		}
		stream := log.Stream(name)
		r.followers = append(r.followers, newFollower(reader, to.tee(name, stream), stream.End))
		writer, err := openFIFO(path, unix.O_WRONLY, false)
		if err != nil {
			return nil, nil, err
		}
		r.writers = append(r.writers, writer)
	}
	if stdin {
		if err := r.openStdin(filepath.Join(bundle, richrun.Dir, richrun.StdinFIFO)); err != nil {
			return nil, nil, err
		}
	}
	if r.initLog, err = boundlog.Open(filepath.Join(bundle, richrun.InitLog), richrun.InitLogMax); err != nil {
		return nil, nil, err
	}
	// An init speaks to /dev/console, and systemd to nothing that is no terminal.
	if r.console, theirs, err = newConsole(lp); err != nil {
		return nil, nil, err
	}
	r.console.output = func(master *os.File) *follower {
		return newFollower(master, unixLines{r.initLog}, func() { _ = r.initLog.Close() })
	}
	return r, theirs, nil
}

// unixLines takes the carriage returns away that a terminal puts before each newline.
type unixLines struct{ to io.Writer }

func (u unixLines) Write(p []byte) (int, error) {
	if _, err := u.to.Write(bytes.ReplaceAll(p, []byte{'\r'}, nil)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// receive takes the init's console, once libcontainer says that the process is made.
func (r *richStreams) receive() error { return r.console.receive() }

func (r *richStreams) openStdin(path string) (err error) {
	if r.reader, err = openFIFO(path, unix.O_RDONLY, false); err != nil {
		return err
	}
	if r.stdin.base, err = openFIFO(path, unix.O_WRONLY, false); err != nil {
		return fmt.Errorf("stdin: %w", err)
	}
	r.stdin.owned = true
	return nil
}

func (r *richStreams) start() {
	for _, f := range r.followers {
		f.start()
	}
	r.console.start()
}

func (r *richStreams) drain() {
	r.letGo()
	deadline := time.Now().Add(drainLimit)
	for _, f := range r.followers {
		f.finish(deadline)
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
	if r.console != nil {
		r.console.close()
	}
	if r.initLog != nil {
		_ = r.initLog.Close()
	}
}

func (r *richStreams) closeStdin() error { return r.stdin.close() }

func (r *richStreams) input() *inlet { return &r.stdin }

func (r *richStreams) resize(uint16, uint16) error { return errNoTerminal }
