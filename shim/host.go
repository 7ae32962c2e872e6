package shim

import (
	"bytes"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/moby/sys/capability"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// host knows what this process may give to containers. What it lacks is left out, with one warning each: a container
// asks for the default of its cluster, and must not fail on a host that is itself a container.
type host struct {
	log         *logrus.Entry
	caps        map[string]bool // in the permitted set, by name (CAP_CHOWN)
	oomScoreAdj int

	mu     sync.Mutex
	warned map[string]bool
}

func newHost(log *logrus.Entry) *host {
	h := &host{log: log, caps: map[string]bool{}, warned: map[string]bool{}}
	permitted := permittedCaps()
	for _, c := range capability.ListKnown() {
		if permitted&(1<<uint(c)) != 0 {
			h.caps["CAP_"+strings.ToUpper(c.String())] = true
		}
	}
	h.oomScoreAdj, _ = oomScoreAdj()
	return h
}

// permittedCaps reads CapPrm of proc(5) status, limited by what the bounding set lets through to an execve.
func permittedCaps() uint64 {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	field := func(name string) uint64 {
		_, rest, _ := bytes.Cut(b, []byte("\n"+name+":"))
		line, _, _ := bytes.Cut(rest, []byte("\n"))
		n, _ := strconv.ParseUint(string(bytes.TrimSpace(line)), 16, 64)
		return n
	}
	return field("CapPrm") & field("CapBnd")
}

func (h *host) warn(what, text string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.warned[what] {
		h.warned[what] = true
		h.log.Warn(text)
	}
}

// fit takes out of a process what the host cannot give. userns says that it has all capabilities of a user namespace of
// its own, whatever the host has.
func (h *host) fit(p *specs.Process, userns bool) {
	if p.Capabilities != nil && !userns {
		for _, set := range []*[]string{
			&p.Capabilities.Bounding, &p.Capabilities.Effective, &p.Capabilities.Inheritable, &p.Capabilities.Permitted, &p.Capabilities.Ambient,
		} {
			*set = h.fitCaps(*set)
		}
	}
	if p.OOMScoreAdj == nil { // else it would inherit the shim's, which spares that
		p.OOMScoreAdj = new(int)
	}
	if h.caps["CAP_SYS_RESOURCE"] {
		return
	}
	if *p.OOMScoreAdj < h.oomScoreAdj {
		h.warn("oom_score_adj", "without CAP_SYS_RESOURCE no container can have an oom_score_adj below "+strconv.Itoa(h.oomScoreAdj)+", they get that")
		adj := h.oomScoreAdj
		p.OOMScoreAdj = &adj
	}
	for i := range p.Rlimits {
		h.fitRlimit(&p.Rlimits[i])
	}
}

func (h *host) fitCaps(set []string) []string {
	return slices.DeleteFunc(slices.Clone(set), func(name string) bool {
		if h.caps[name] {
			return false
		}
		h.warn(name, "the host lacks "+name+", containers that ask for it run without")
		return true
	})
}

func (h *host) fitRlimit(r *specs.POSIXRlimit) {
	resource, ok := rlimits[r.Type]
	if !ok {
		return // refused with a reason later
	}
	var own unix.Rlimit
	if err := unix.Getrlimit(resource, &own); err != nil || r.Hard <= own.Max {
		return
	}
	h.warn(r.Type, "without CAP_SYS_RESOURCE "+r.Type+" cannot be raised above "+strconv.FormatUint(own.Max, 10)+", containers get that")
	r.Hard = own.Max
	r.Soft = min(r.Soft, own.Max)
}
