// Package journal keeps what happened to containers: numbered entries, as many as fit in two files of lines of JSON, and
// the same ones in memory for those who follow. Adding an entry is one write to the page cache and waits for nobody; a
// follower that is too slow is told how many entries it has missed. The files outlive the daemon's death at once, and the
// machine's as far as the kernel had written them.
package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// Entry is one thing that happened. Which fields are set follows from Kind; all texts are bounded by Add.
type Entry struct {
	Number uint64    `json:"n"` // grows by one with each entry
	Time   time.Time `json:"time"`
	Kind   Kind      `json:"kind"`

	SandboxID string `json:"sandbox,omitempty"`
	Pod       string `json:"pod,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	UID       string `json:"uid,omitempty"`

	ContainerID string `json:"container,omitempty"`
	Name        string `json:"name,omitempty"`
	Attempt     uint32 `json:"attempt,omitempty"`
	Image       string `json:"image,omitempty"`
	ImageRef    string `json:"imageRef,omitempty"`

	Predecessor string `json:"predecessor,omitempty"`
	Outage      *int64 `json:"outage,omitempty"` // ms
	ExitCode    *int32 `json:"code,omitempty"`
	Reason      string `json:"reason,omitempty"`
	Message     string `json:"message,omitempty"`
}

// Kind says what happened.
type Kind string

// The kinds of entries.
const (
	Created       Kind = "created"
	Started       Kind = "started"
	Restarted     Kind = "restarted" // follows Started where the container has a predecessor with the same hash
	Upgraded      Kind = "upgraded"  // as Restarted, with another hash
	Ended         Kind = "ended"
	Lost          Kind = "lost" // ended, and nobody can know how
	OOM           Kind = "oom"  // the kernel killed a process of the container
	StartFailed   Kind = "start-failed"
	UpgradeFailed Kind = "upgrade-failed" // follows StartFailed where the container is an upgrade
	Removed       Kind = "removed"
	PullFailed    Kind = "pull-failed"
	AppRestarted  Kind = "app-restarted" // inside of a rich container, by its launcher
	UnitFailed    Kind = "unit-failed"   // a watched unit or a component of a rich container
	Hook          Kind = "hook"          // a hook of a container has ended or was skipped
)

// The bounds of one segment; there are two. An entry has at most maxLine bytes.
const (
	segmentBytes   = 512 << 10
	segmentEntries = 2048
	maxLine        = 8 << 10
	maxText        = 512
	maxMessage     = 1024
)

const (
	currentName = "events.jsonl"
	formerName  = "events.1.jsonl"
)

// Journal is safe for concurrent use.
type Journal struct {
	dir string

	mu      sync.Mutex
	file    *os.File // the current segment
	size    int64    // of file
	current int      // entries of lines that stand in file
	lines   []line   // all that are kept, oldest first
	last    uint64   // the number of the newest entry
	changed chan struct{}
	failed  error // of the last write
}

// line is an encoded entry with its newline.
type line struct {
	number uint64
	text   []byte
}

// Open opens the journal in dir, which is made if need be, and reads what is there. Lines that are torn or damaged are left
// out. Errors: the folder or a file cannot be made, or something else than a plain file stands in its place.
func Open(dir string) (*Journal, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make folder of the journal: %w", err)
	}
	j := &Journal{dir: dir}
	former, _, err := readSegment(filepath.Join(dir, formerName), 0)
	if err != nil {
		return nil, err
	}
	newest := uint64(0)
	if len(former) > 0 {
		newest = former[len(former)-1].number
	}
	current, whole, err := readSegment(filepath.Join(dir, currentName), newest)
	if err != nil {
		return nil, err
	}
	j.lines, j.current = append(former, current...), len(current)
	if len(j.lines) > 0 {
		j.last = j.lines[len(j.lines)-1].number
	}
	if err := j.openCurrent(); err != nil {
		return nil, err
	}
	// What is torn goes, so that the next entry begins a line.
	if whole < j.size {
		if err := j.cut(whole); err != nil {
			return nil, errors.Join(err, j.file.Close())
		}
	}
	return j, nil
}

// Close syncs and closes the files; followers wait on.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return nil
	}
	err := errors.Join(j.file.Sync(), j.file.Close())
	j.file = nil
	return err
}

// Add gives e its number and, where it has none, the present time, and appends it. An error means that the entry is known to
// followers but will not outlive the daemon; it is given once for each row of failures.
func (j *Journal) Add(e Entry) error {
	e = e.bounded()
	j.mu.Lock()
	defer j.mu.Unlock()
	if e.Time.IsZero() {
		e.Time = time.Now().UTC()
	}
	e.Number = j.last + 1
	text, err := json.Marshal(e)
	if err == nil && len(text) >= maxLine {
		err = fmt.Errorf("it has %d bytes, at most %d are kept: %w", len(text), maxLine, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return fmt.Errorf("encode entry of the journal: %w", err)
	}
	text = append(text, '\n')
	err = j.append(text)
	j.last = e.Number
	j.lines = append(j.lines, line{e.Number, text})
	j.current++
	if j.changed != nil {
		close(j.changed)
		j.changed = nil
	}
	first := j.failed == nil
	if j.failed = err; err != nil && first {
		return fmt.Errorf("write to the journal: %w", err)
	}
	return nil
}

// bounded cuts the texts of e.
func (e Entry) bounded() Entry {
	for _, s := range []*string{
		&e.SandboxID, &e.Pod, &e.Namespace, &e.UID, &e.ContainerID, &e.Name, &e.Image, &e.ImageRef, &e.Predecessor, &e.Reason,
	} {
		*s = cutText(*s, maxText)
	}
	e.Message = cutText(e.Message, maxMessage)
	return e
}

// Reader reads the entries in their order. It is for one goroutine.
type Reader struct {
	j     *Journal
	after uint64
}

// Reader gives a reader of what comes after entry number after; 0: of all that is kept. A number that was not given yet is
// errdefs.ErrOutOfRange.
func (j *Journal) Reader(after uint64) (*Reader, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if after > j.last {
		return nil, fmt.Errorf("the journal's newest entry is %d, there is none after %d: %w", j.last, after, errdefs.ErrOutOfRange)
	}
	if after == 0 {
		after = j.oldest() - 1
	}
	return &Reader{j, after}, nil
}

// Newest is the number of the newest entry; 0: there was none.
func (j *Journal) Newest() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.last
}

// oldest is the number of the oldest entry that is kept; of the next one where none is.
func (j *Journal) oldest() uint64 {
	if len(j.lines) == 0 {
		return j.last + 1
	}
	return j.lines[0].number
}

// Found is an entry, and how many right before it are gone.
type Found struct {
	Entry
	Missed uint64
}

// Next gives the next entries, at most so many; none if the reader has read all.
func (r *Reader) Next(most int) []Found {
	var found []Found
	for _, l := range r.take(most) {
		var f Found
		if json.Unmarshal(l.text, &f.Entry) != nil {
			continue // cannot be: it was decoded or encoded here
		}
		f.Missed = f.Number - r.after - 1
		r.after = f.Number
		found = append(found, f)
	}
	return found
}

func (r *Reader) take(most int) []line {
	r.j.mu.Lock()
	defer r.j.mu.Unlock()
	all := r.j.lines
	at := search(all, r.after)
	return append([]line(nil), all[at:min(len(all), at+most)]...)
}

// Wait returns when there is something to read, or with the error of ctx.
func (r *Reader) Wait(ctx context.Context) error {
	for {
		r.j.mu.Lock()
		if r.j.last > r.after {
			r.j.mu.Unlock()
			return nil
		}
		if r.j.changed == nil {
			r.j.changed = make(chan struct{})
		}
		changed := r.j.changed
		r.j.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
