package stream

import (
	"crypto/rand"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

const (
	// tokenLife is how long a URL that nobody has used is good for.
	tokenLife = time.Minute
	// tokensMax bounds the URLs that wait to be used.
	tokensMax = 1000
)

// tokens are requests that wait for their client, each under a secret that is good once.
type tokens struct {
	now func() time.Time

	mu      sync.Mutex
	waiting map[string]waiting
}

type waiting struct {
	request any
	until   time.Time
}

func newTokens() *tokens { return &tokens{now: time.Now, waiting: map[string]waiting{}} }

// add keeps a request and gives its token (130 random bits); errdefs.ErrResourceExhausted when too many wait.
func (t *tokens) add(request any) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	if len(t.waiting) >= tokensMax {
		for token, w := range t.waiting {
			if now.After(w.until) {
				delete(t.waiting, token)
			}
		}
	}
	if len(t.waiting) >= tokensMax {
		return "", fmt.Errorf("%d streams were asked for and not opened, try again in a minute: %w", tokensMax, errdefs.ErrResourceExhausted)
	}
	token := rand.Text()
	t.waiting[token] = waiting{request, now.Add(tokenLife)}
	return token, nil
}

// take gives the request of a token, once.
func (t *tokens) take(token string) (request any, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	w, ok := t.waiting[token]
	delete(t.waiting, token)
	if !ok || t.now().After(w.until) {
		return nil, false
	}
	return w.request, true
}
