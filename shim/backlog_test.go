package shim

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/containerd/errdefs"
)

// stuck attaches clients that read nothing and lets a container write so many bytes.
func stuck(t *testing.T, a *audience, clients, bytesEach int) (members []*attachment) {
	t.Helper()
	for range clients {
		m, _ := listener(t, a)
		members = append(members, m)
	}
	out := a.tee("stdout", io.Discard)
	piece := bytes.Repeat([]byte("x"), 64<<10)
	for range bytesEach / len(piece) {
		_, _ = out.Write(piece)
	}
	return members
}

// detached counts those who have been, and insists on the reason.
func detached(t *testing.T, members []*attachment) (n int) {
	t.Helper()
	for _, m := range members {
		select {
		case <-m.gone:
			n++
			if !errors.Is(m.err, errSlow) || !errdefs.IsResourceExhausted(m.err) {
				t.Errorf("detached: %v", m.err)
			}
		default:
		}
	}
	return n
}

// What waits for clients that read nothing is bounded for each container and for the node, and who has the most gives way.
func TestWhatWaitsForClientsIsBounded(t *testing.T) {
	const below = attachBacklog - 128<<10 // what one stream may have
	before := heap()
	b := newBacklog()
	var members []*attachment
	t.Run("of a container", func(t *testing.T) {
		a := &audience{backlog: b, pod: "one"}
		members := stuck(t, a, attachMax, below)
		if n := detached(t, members); n < attachMax-attachShare/below-1 || n == attachMax {
			t.Errorf("%d of %d clients are detached", n, attachMax)
		}
		if b.total > attachShare {
			t.Errorf("%d bytes wait for the clients of a container", b.total)
		}
		a.end()
		for _, m := range members {
			m.detach(nil)
		}
		if b.total != 0 || len(b.pods) != 0 {
			t.Errorf("%d bytes wait for nobody, in %d pods", b.total, len(b.pods))
		}
	})
	for range 2 * attachTotal / attachShare {
		members = append(members, stuck(t, &audience{backlog: b, pod: "greedy"}, 10, below)...)
	}
	if detached(t, members) == 0 {
		t.Error("nobody is detached")
	}
	if b.total > attachTotal || b.total < attachTotal-attachShare {
		t.Errorf("%d bytes wait for the clients of a pod", b.total)
	}
	greedy := detached(t, members)
	other := stuck(t, &audience{backlog: b, pod: "other"}, 1, below)
	if detached(t, other) != 0 {
		t.Error("the only client of another pod is detached")
	}
	if detached(t, members) == greedy {
		t.Error("nobody has made room for it")
	}
	if b.total > attachTotal {
		t.Errorf("%d bytes wait", b.total)
	}
	if grown := heap() - before; grown > attachTotal+8<<20 {
		t.Errorf("the heap has grown by %d bytes", grown)
	}
	for _, m := range append(members, other...) {
		m.detach(nil)
	}
	if b.total != 0 || len(b.pods) != 0 {
		t.Errorf("%d bytes wait for nobody, in %d pods", b.total, len(b.pods))
	}
}
