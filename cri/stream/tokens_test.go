package stream

import (
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

func TestTokenIsGoodOnce(t *testing.T) {
	s := newTokens()
	a, err := s.add("a")
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.add("b")
	if err != nil || a == b || len(a) < 22 {
		t.Fatalf("%q, %q, %v", a, b, err)
	}
	if r, ok := s.take(b); !ok || r != "b" {
		t.Errorf("%v, %v", r, ok)
	}
	if r, ok := s.take(a); !ok || r != "a" {
		t.Errorf("%v, %v", r, ok)
	}
	for _, token := range []string{a, b, "", "none"} {
		if r, ok := s.take(token); ok {
			t.Errorf("%q gives %v", token, r)
		}
	}
}

func TestTokenGrowsOld(t *testing.T) {
	now := time.Now()
	s := newTokens()
	s.now = func() time.Time { return now }
	young, _ := s.add("young")
	old, _ := s.add("old")
	now = now.Add(tokenLife)
	if _, ok := s.take(young); !ok {
		t.Error("a token of a minute is refused")
	}
	now = now.Add(time.Millisecond)
	if _, ok := s.take(old); ok {
		t.Error("an older one is not")
	}
}

func TestTokensAreBounded(t *testing.T) {
	now := time.Now()
	s := newTokens()
	s.now = func() time.Time { return now }
	for range tokensMax {
		if _, err := s.add("r"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.add("r"); !errdefs.IsResourceExhausted(err) {
		t.Errorf("one more: %v", err)
	}
	now = now.Add(tokenLife + 1)
	if _, err := s.add("r"); err != nil || len(s.waiting) != 1 {
		t.Errorf("when the others are old: %v, %d wait", err, len(s.waiting))
	}
}
