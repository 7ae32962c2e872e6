package shim

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/crilog"
	"github.com/cri-pouch/cri-pouch/internal/hookrun"
	"github.com/cri-pouch/cri-pouch/internal/pollfile"
)

// hookLogMax bounds what one hook may add to the container's log, in bytes as they stand there: the log is the application's.
const hookLogMax = 1 << 20

// hookPiece is how many bytes of a hook's output are written to the container's log at a time.
const hookPiece = 16 << 10

// hookOutput takes what a hook writes to stdout and stderr, which are one pipe. All of it is read, the end is kept.
type hookOutput struct {
	follower *follower
	tail     []byte
	log      *hookLog // nil: not wanted
}

// newHookOutput makes the pipe. child is the hook's end, to be closed once the hook has it.
func newHookOutput(log *crilog.File, hook hookrun.Hook) (o *hookOutput, child *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("make pipe for the output: %w", err)
	}
	// A program that has changed its user can open /dev/stdout again.
	err = unix.Fchmod(fds[1], 0o622)
	if err == nil {
		err = unix.SetNonblock(fds[0], true)
	}
	if err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return nil, nil, fmt.Errorf("make pipe for the output: %w", err)
	}
	o = &hookOutput{}
	end := func() {}
	if hook.Log {
		o.log = newHookLog(log.Stream("stdout"), hook.Name)
		end = o.log.end
	}
	o.follower = newFollower(pollfile.New(fds[0], "output of hook"), o, end)
	return o, os.NewFile(uintptr(fds[1]), "output of hook"), nil
}

// Write never fails.
func (o *hookOutput) Write(p []byte) (int, error) {
	if o.log != nil {
		o.log.write(p)
	}
	keep := p[max(0, len(p)-hookrun.OutputMax):]
	if len(o.tail)+len(keep) > 2*hookrun.OutputMax {
		o.tail = append(o.tail[:0], o.tail[max(0, len(o.tail)-hookrun.OutputMax):]...)
	}
	o.tail = append(o.tail, keep...)
	return len(p), nil
}

// finish takes what stands in the pipe and gives the end of the output. Whoever else holds the pipe is not waited for.
func (o *hookOutput) finish() string {
	o.follower.finish(time.Now().Add(drainLimit))
	text := strings.ToValidUTF8(string(o.tail[max(0, len(o.tail)-hookrun.OutputMax):]), "\uFFFD")
	if cut := len(text) - hookrun.OutputMax; cut > 0 { // a replacement is longer than what it replaces
		for !utf8.RuneStart(text[cut]) {
			cut++
		}
		text = text[cut:]
	}
	return text
}

// hookLog writes a hook's lines to a container's log, each with the hook's name before it.
type hookLog struct {
	to     *crilog.Stream
	prefix []byte
	left   int  // bytes that may still be added
	inLine bool // a line has begun
}

func newHookLog(to *crilog.Stream, name string) *hookLog {
	return &hookLog{to: to, prefix: []byte("[hook " + name + "] "), left: hookLogMax}
}

// write passes the output on in pieces: a prefix for each line makes much of little.
func (l *hookLog) write(p []byte) {
	if l.left <= 0 {
		return
	}
	var piece []byte
	for len(p) > 0 && l.left > 0 {
		n := bytes.IndexByte(p, '\n') + 1
		if n == 0 {
			n = len(p)
		}
		if !l.inLine {
			if l.left -= l.to.Head() + len(l.prefix); l.left <= 0 {
				break
			}
			piece = append(piece, l.prefix...)
		}
		n = min(n, l.left)
		piece = append(piece, p[:n]...)
		l.inLine = p[n-1] != '\n'
		if l.left -= n; l.left <= 0 && l.inLine {
			piece = append(piece, '\n')
		}
		if p = p[n:]; len(piece) >= hookPiece {
			_, _ = l.to.Write(piece)
			piece = piece[:0]
		}
	}
	if l.left <= 0 {
		piece = fmt.Appendf(piece, "%s(what goes beyond %d bytes of the log is left out)\n", l.prefix, hookLogMax)
	}
	_, _ = l.to.Write(piece)
}

func (l *hookLog) end() { l.to.End() }
