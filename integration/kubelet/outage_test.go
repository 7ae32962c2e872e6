package kubelet

import (
	"bufio"
	"context"
	"errors"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"
)

// meter asks a pod's port for its version every 5 ms, as a client on the node would, and notes when it had an answer.
type meter struct {
	stop context.CancelFunc
	done sync.WaitGroup

	mu      sync.Mutex
	answers []answer
	heard   chan struct{} // has an entry when there is a new answer
}

type answer struct {
	at      time.Time
	version string
}

// meterPort is where the containers under measurement serve their /version.
const meterPort = 8080

// serving is the script of a container that serves its root folder on meterPort, so its image's /version too.
const serving = "exec httpd -f -p 8080 -h /"

// measure starts a meter on a pod's address and waits for the first answer; it is stopped when the test ends.
func measure(t testing.TB, ip string) *meter {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	m := &meter{stop: cancel, heard: make(chan struct{}, 1)}
	m.done.Add(1)
	go func() {
		defer m.done.Done()
		for tick := time.NewTicker(5 * time.Millisecond); ctx.Err() == nil; <-tick.C {
			if version, err := ask(ip); err == nil {
				m.note(version)
			}
		}
	}()
	t.Cleanup(func() { m.stop(); m.done.Wait() })
	select {
	case <-m.heard:
	case <-time.After(patience):
		t.Fatalf("%s never answered", ip)
	}
	return m
}

func (m *meter) note(version string) {
	m.mu.Lock()
	m.answers = append(m.answers, answer{time.Now(), version})
	m.mu.Unlock()
	select {
	case m.heard <- struct{}{}:
	default:
	}
}

// ask gives the version that a pod's meterPort answers.
func ask(ip string) (string, error) { return askAt(ip, meterPort) }

// awaitServing waits until a pod answers: a container that runs need not listen yet.
func awaitServing(t testing.TB, ip string) {
	t.Helper()
	for limit := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		_, err := ask(ip)
		if err == nil {
			return
		}
		if time.Now().After(limit) {
			t.Fatalf("%s never answered: %v", ip, err)
		}
	}
}

// askAt makes one HTTP request for /version on a connection of its own.
func askAt(ip string, port int) (string, error) {
	conn, err := net.DialTimeout("tcp", net.JoinHostPort(ip, strconv.Itoa(port)), 100*time.Millisecond)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
		return "", err
	}
	if _, err := conn.Write([]byte("GET /version HTTP/1.0\r\n\r\n")); err != nil {
		return "", err
	}
	last, s := "", bufio.NewScanner(conn)
	for s.Scan() {
		last = s.Text()
	}
	if err := s.Err(); err != nil {
		return "", err
	}
	if last == "" {
		return "", errors.New("the connection was closed without an answer")
	}
	return last, nil
}

// outage waits for an answer of this version and gives the time between the last answer before it and it.
func (m *meter) outage(t testing.TB, version string) time.Duration {
	t.Helper()
	limit := time.After(patience)
	for {
		m.mu.Lock()
		for i, a := range m.answers {
			if a.version == version && i > 0 {
				gap := a.at.Sub(m.answers[i-1].at)
				m.answers = m.answers[i:]
				m.mu.Unlock()
				return gap
			}
		}
		m.mu.Unlock()
		select {
		case <-m.heard:
		case <-limit:
			t.Fatalf("version %s never answered", version)
		}
	}
}
