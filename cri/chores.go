package cri

import (
	"context"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/cri-pouch/cri-pouch/internal/crash"
)

// chores is work that must be done in the end although no client waits for it: it is tried again until it succeeds or
// the daemon stops, after which recovery takes it up.
type chores struct {
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	log    *logrus.Entry
}

func newChores(log *logrus.Entry) *chores {
	ctx, cancel := context.WithCancel(context.Background())
	return &chores{ctx: ctx, cancel: cancel, log: log}
}

func (c *chores) stop() {
	c.cancel()
	c.wg.Wait()
}

// run calls fn in the background until it gives nil, first after wait, then with pauses that double up to a minute.
func (c *chores) run(what string, wait time.Duration, fn func(context.Context) error) {
	c.wg.Go(crash.Guard(c.log, what, func() {
		for pause := wait; ; pause = min(max(2*pause, 100*time.Millisecond), time.Minute) {
			select {
			case <-time.After(pause):
			case <-c.ctx.Done():
				return
			}
			ctx, cancel := context.WithTimeout(c.ctx, containerLimit)
			err := crash.Try(c.log, what, func() error { return fn(ctx) })
			cancel()
			if err == nil || c.ctx.Err() != nil {
				return
			}
			c.log.WithError(err).Warnf("cannot %s yet, will try again", what)
		}
	}))
}

// readBootID identifies this boot of the kernel (proc_sys_kernel(5)).
func readBootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
