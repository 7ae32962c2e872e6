package harness

import (
	"bufio"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/richrun"
)

// FollowLog waits until the container has logged a line that ok takes, and gives it. The log is followed by inotify, so
// that the answer comes with the line. After LongEnough, or limit if that is longer, the test fails with what was logged so far.
func (c *Container) FollowLog(t testing.TB, limit time.Duration, ok func(LogLine) bool) LogLine {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := unix.InotifyAddWatch(fd, filepath.Dir(c.LogFile()), unix.IN_CREATE|unix.IN_MODIFY|unix.IN_MOVED_TO); err != nil {
		t.Fatalf("watch the log of %s: %v", c.Config.Metadata.Name, err)
	}
	deadline := time.Now().Add(Patience(max(limit, LongEnough)))
	for {
		for _, l := range c.completeLines(t) {
			if ok(l) {
				return l
			}
		}
		left := time.Until(deadline)
		if left <= 0 {
			t.Fatalf("%s has not logged the line that is awaited, but:\n%s%s", c.Config.Metadata.Name, c.LogText(t), c.initLog())
		}
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left/time.Millisecond)+1); err != nil && !errors.Is(err, unix.EINTR) {
			t.Fatal(err)
		}
		if _, err := unix.Read(fd, make([]byte, 16<<10)); err != nil && !errors.Is(err, unix.EAGAIN) {
			t.Fatal(err)
		}
	}
}

// initLog is what the init of a rich container said last.
func (c *Container) initLog() string {
	b, err := os.ReadFile(filepath.Join(c.Pod.Node.StateDir(), "containers", c.ID, richrun.InitLog))
	if err != nil {
		return ""
	}
	return "its init said:\n" + string(b[max(len(b)-4000, 0):])
}

// completeLines are the log's entries but for one that is being written.
func (c *Container) completeLines(t testing.TB) []LogLine {
	t.Helper()
	b, err := os.ReadFile(c.LogFile())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	var lines []LogLine
	s := bufio.NewScanner(bytes.NewReader(b[:bytes.LastIndexByte(b, '\n')+1]))
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		part := strings.SplitN(s.Text(), " ", 4)
		if len(part) != 4 {
			t.Fatalf("entry %q has not four parts", s.Text())
		}
		at, err := time.Parse(time.RFC3339Nano, part[0])
		if err != nil {
			t.Fatalf("entry %q: %v", s.Text(), err)
		}
		lines = append(lines, LogLine{at, part[1], part[2], part[3]})
	}
	return lines
}

// AwaitLine waits for a logged line that is text.
func (c *Container) AwaitLine(t testing.TB, limit time.Duration, text string) LogLine {
	t.Helper()
	return c.FollowLog(t, limit, func(l LogLine) bool { return l.Text == text })
}
