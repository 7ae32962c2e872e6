package shim

import (
	"context"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/cri-pouch/cri-pouch/internal/shimstate"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

const soon = time.Minute // a bound for what comes at once

// start gives a shim that looks often; ended gets what Serve gives.
func start(t *testing.T, state string, idle time.Duration) (s *Server, ended <-chan error) {
	t.Helper()
	l := logrus.New()
	l.SetOutput(io.Discard)
	s, err := New(Options{StateDir: state, Log: logrus.NewEntry(l)})
	if err != nil {
		t.Fatal(err)
	}
	s.idleLimit, s.lookEvery = idle, 10*time.Millisecond
	done := make(chan error, 1)
	go func() { done <- s.Serve(context.Background()) }()
	t.Cleanup(func() {
		_ = s.shutdown(context.Background(), false)
		_ = s.lock.Close()
	})
	return s, done
}

// connect waits for the socket and for the shim to know of the connection.
func connect(t *testing.T, s *Server) net.Conn {
	t.Helper()
	for until := time.Now().Add(soon); time.Now().Before(until); time.Sleep(time.Millisecond) {
		conn, err := net.Dial("unix", s.dir.Socket())
		if err != nil {
			continue
		}
		t.Cleanup(func() { _ = conn.Close() })
		for time.Now().Before(until) {
			if open, _ := s.clients.state(); open > 0 {
				return conn
			}
			time.Sleep(time.Millisecond)
		}
	}
	t.Fatal("cannot connect")
	return nil
}

func awaitEnd(t *testing.T, ended <-chan error) {
	t.Helper()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(soon):
		t.Error("the shim goes on")
	}
}

func TestAnIdleShimEnds(t *testing.T) {
	s, ended := start(t, t.TempDir(), 200*time.Millisecond)
	conn := connect(t, s)
	select {
	case <-ended:
		t.Fatal("it ended with a client")
	case <-time.After(3 * s.idleLimit):
	}
	left := time.Now()
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	awaitEnd(t, ended)
	if took := time.Since(left); took < s.idleLimit {
		t.Errorf("it ended after %v", took)
	}
	if _, err := os.Stat(s.dir.Socket()); !os.IsNotExist(err) {
		t.Errorf("its socket is left: %v", err)
	}
}

func TestAShimWithoutItsStateEnds(t *testing.T) {
	state := t.TempDir()
	old, ended := start(t, state, time.Hour)
	connect(t, old)
	if err := os.RemoveAll(string(old.dir)); err != nil {
		t.Fatal(err)
	}
	next, _ := start(t, state, time.Hour)
	connect(t, next)
	awaitEnd(t, ended)
	if _, err := os.Stat(shimstate.Of(state).Socket()); err != nil {
		t.Errorf("it took its successor's socket along: %v", err)
	}
}

func TestWhenAShimIsNeedless(t *testing.T) {
	const running, stopped = task.Running, task.Stopped
	for name, tc := range map[string]struct {
		holds       []task.Status // "": being created
		client      bool
		gone        bool // the state folder
		quiet       time.Duration
		want, force bool
	}{
		"fresh":                         {},
		"a daemon restarts":             {quiet: idleLimit - time.Minute},
		"idle":                          {quiet: idleLimit, want: true},
		"an idle daemon":                {quiet: idleLimit, client: true},
		"long without a daemon":         {quiet: idleLimit, holds: []task.Status{running}},
		"an end not fetched":            {quiet: idleLimit, holds: []task.Status{stopped}},
		"gone":                          {gone: true, want: true},
		"gone, with a client":           {gone: true, client: true, want: true},
		"gone, running":                 {gone: true, holds: []task.Status{running, stopped}, quiet: idleLimit},
		"gone, being created":           {gone: true, holds: []task.Status{""}},
		"gone, all ended":               {gone: true, holds: []task.Status{stopped, stopped}, want: true, force: true},
		"gone, all ended with a client": {gone: true, holds: []task.Status{stopped}, client: true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := shimstate.Of(t.TempDir())
			if err := dir.Make(); err != nil {
				t.Fatal(err)
			}
			lock, err := takeLock(dir.Lock())
			if err != nil {
				t.Fatal(err)
			}
			defer lock.Close()
			s := &Server{dir: dir, lock: lock, containers: map[string]*container{}, clients: newClients(), idleLimit: idleLimit}
			for i, status := range tc.holds {
				c := &container{status: status}
				if status != "" {
					c.init = &process{}
				}
				s.containers[string(rune('a'+i))] = c
			}
			if tc.client {
				s.clients.open = 1
			}
			s.clients.last = time.Now().Add(-tc.quiet)
			if tc.gone {
				if err := os.RemoveAll(string(dir)); err != nil {
					t.Fatal(err)
				}
			}
			if why, force := s.needless(); (why != "") != tc.want || force != tc.force {
				t.Errorf("needless: %q, by force: %v", why, force)
			}
		})
	}
}
