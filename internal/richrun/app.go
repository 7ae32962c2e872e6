package richrun

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// Restart says when the launcher starts the application again.
type Restart string

// The restart policies.
const (
	RestartNo        Restart = "no"
	RestartOnFailure Restart = "on-failure"
	RestartAlways    Restart = "always"
)

// Rlimit is one resource limit by its number (getrlimit(2)).
type Rlimit struct {
	Resource   int
	Soft, Hard uint64
}

// App is what the launcher runs. Paths are the container's.
type App struct {
	Args, Env       []string // exactly; Env as KEY=VALUE
	UID, GID        uint32
	Groups          []uint32
	Dir             string
	Umask           *uint32
	Rlimits         []Rlimit
	Ambient         []int // capability numbers
	NoNewPrivs      bool
	OOMGroup        bool // the OOM killer takes all of the application or nothing
	Terminal        bool // at Folder/TerminalLink
	Stdin           bool
	Restart         Restart
	RestartLimit    uint
	RestartInterval time.Duration
}

// magic begins the file; init/app.h describes it.
const magic = "pouch-app 1"

// Encode gives the launcher's file. InvalidArgument: a word holds a NUL, or a variable has no name.
func (a App) Encode() ([]byte, error) {
	var b bytes.Buffer
	var bad string
	field := func(letter byte, value string) {
		if strings.ContainsRune(value, 0) {
			bad = value
		}
		b.WriteByte(letter)
		b.WriteString(value)
		b.WriteByte(0)
	}
	b.WriteString(magic + "\x00")
	for _, arg := range a.Args {
		field('a', arg)
	}
	for _, v := range a.Env {
		if strings.Index(v, "=") < 1 {
			bad = v
		}
		field('e', v)
	}
	field('u', fmt.Sprint(a.UID))
	field('g', fmt.Sprint(a.GID))
	for _, g := range a.Groups {
		field('s', fmt.Sprint(g))
	}
	if a.Dir != "" {
		field('d', a.Dir)
	}
	if a.Umask != nil {
		field('m', fmt.Sprintf("%o", *a.Umask))
	}
	for _, l := range a.Rlimits {
		field('l', fmt.Sprintf("%d %d %d", l.Resource, l.Soft, l.Hard))
	}
	for _, c := range a.Ambient {
		field('A', fmt.Sprint(c))
	}
	a.switches(field)
	if bad != "" {
		return nil, fmt.Errorf("%q cannot be given to a program: %w", bad, errdefs.ErrInvalidArgument)
	}
	if len(a.Args) == 0 {
		return nil, fmt.Errorf("there is no command: %w", errdefs.ErrInvalidArgument)
	}
	return b.Bytes(), nil
}

func (a App) switches(field func(letter byte, value string)) {
	if a.NoNewPrivs {
		field('p', "")
	}
	if a.OOMGroup {
		field('o', "")
	}
	if a.Terminal {
		field('t', Folder+"/"+TerminalLink)
	} else {
		field('1', Folder+"/"+StdoutFIFO)
		field('2', Folder+"/"+StderrFIFO)
		if a.Stdin {
			field('0', Folder+"/"+StdinFIFO)
		}
	}
	field('R', Folder+"/"+RecordFile)
	field('C', Folder+"/"+ControlFIFO)
	if a.Restart != "" && a.Restart != RestartNo {
		field('r', string(a.Restart))
		field('n', fmt.Sprint(a.RestartLimit))
		field('w', fmt.Sprint(a.RestartInterval.Milliseconds()))
	}
}
