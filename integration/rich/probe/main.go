// Command probe is the application of the tests of rich containers: it does what its arguments say, one after the other.
//
//	say=TEXT err=TEXT   a line on stdout, on stderr
//	report              what it was given, as JSON on stdout (see Report)
//	mark=FILE           appends a line to FILE
//	cat                 stdin to stdout until its end, then a line "end of stdin"
//	wait                until SIGTERM, SIGINT, SIGUSR1 or SIGWINCH, then a line "asked NUMBER"
//	sleep=DURATION      as Go writes them
//	deaf                ignores SIGTERM from here on
//	hold=N              takes N MiB of memory, then a line "held"
//	grow                takes memory until it is killed
//	leave=N             leaves N processes behind that sleep, ignoring SIGTERM
//	kill=N              sends itself signal N
//	overwrite=FILE      tries every way to write to a file that is mounted read-only (overwrite.go)
//	lease=FILE          takes a write lease, says "leased", and "wanted" when others open FILE
//	immutable=FILE      lets FILE not be changed or removed any more (FS_IMMUTABLE_FL)
//	exit=N              ends
//	--                  what follows is not looked at
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Report is what a program was given. Words are bytes, for they need not be text.
type Report struct {
	Args, Env [][]byte
	UID, GID  int
	Groups    []int
	Dir       string
	Umask     int
	PID       int
	Stdin     string            // what it is, as /proc names it
	Limits    string            // of a shell, where there is one
	Status    map[string]string // lines of /proc/self/status
}

func report() (Report, error) {
	r := Report{UID: os.Getuid(), GID: os.Getgid(), PID: os.Getpid(), Status: map[string]string{}}
	for _, a := range os.Args {
		r.Args = append(r.Args, []byte(a))
	}
	for _, v := range os.Environ() {
		r.Env = append(r.Env, []byte(v))
	}
	var err error
	if r.Groups, err = os.Getgroups(); err != nil {
		return r, err
	}
	if r.Dir, err = os.Getwd(); err != nil {
		return r, err
	}
	r.Umask = syscall.Umask(0)
	syscall.Umask(r.Umask)
	if r.Stdin, err = os.Readlink("/proc/self/fd/0"); err != nil {
		return r, err
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return r, err
	}
	for line := range strings.Lines(string(status)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch key {
		case "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "SigBlk", "SigIgn":
			r.Status[key] = strings.TrimSpace(value)
		}
	}
	// Go raises its own limit of open files, but not that of a child.
	if _, err := os.Stat("/bin/sh"); err == nil {
		out, err := exec.Command("/bin/sh", "-c", "ulimit -a; ulimit -H -a").Output()
		if err != nil {
			return r, err
		}
		r.Limits = string(out)
	}
	return r, nil
}

// held is memory that is not given back.
var held []byte

func do(action, value string) error {
	switch action {
	case "say":
		_, err := fmt.Println(value)
		return err
	case "err":
		_, err := fmt.Fprintln(os.Stderr, value)
		return err
	case "report":
		r, err := report()
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(r)
	case "mark":
		f, err := os.OpenFile(value, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = fmt.Fprintln(f, "marked by", os.Getpid())
		return err
	case "cat":
		if _, err := io.Copy(os.Stdout, os.Stdin); err != nil {
			return err
		}
		_, err := fmt.Println("end of stdin")
		return err
	case "sleep":
		d, err := time.ParseDuration(value)
		time.Sleep(d)
		return err
	case "overwrite":
		return overwrite(value)
	case "lease":
		return lease(value)
	case "immutable":
		return immutable(value)
	case "deaf":
		signal.Ignore(syscall.SIGTERM)
		return nil
	case "hold":
		n, err := strconv.Atoi(value)
		if err != nil {
			return err
		}
		held = make([]byte, n<<20)
		for i := 0; i < len(held); i += 4096 {
			held[i] = 1
		}
		_, err = fmt.Println("held")
		return err
	case "grow":
		for held := [][]byte{}; ; {
			b := make([]byte, 4<<20)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			held = append(held, b)
		}
	}
	return number(action, value)
}

func number(action, value string) error {
	n, err := strconv.Atoi(value)
	if err != nil {
		return err
	}
	switch action {
	case "exit":
		os.Exit(n)
	case "kill":
		if err := syscall.Kill(os.Getpid(), syscall.Signal(n)); err != nil {
			return err
		}
		time.Sleep(time.Minute)
	case "leave":
		for range n {
			if err := exec.Command("/proc/self/exe", "deaf", "sleep=24h").Start(); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("unknown action")
}

func main() {
	asked := make(chan os.Signal, 8)
	for _, arg := range os.Args[1:] {
		if arg == "--" {
			break
		}
		action, value, _ := strings.Cut(arg, "=")
		if action == "wait" {
			signal.Notify(asked, syscall.SIGTERM, syscall.SIGINT, syscall.SIGUSR1, syscall.SIGWINCH)
			fmt.Println("waiting")
			fmt.Println("asked", int((<-asked).(syscall.Signal)))
			continue
		}
		if err := do(action, value); err != nil {
			fmt.Fprintf(os.Stderr, "probe: %s: %v\n", arg, err)
			os.Exit(99)
		}
	}
}
