package hooks

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Grant is what the hooks of a namespace's pods may have beyond what their containers have.
type Grant struct {
	Namespace    string
	Capabilities []string // CAP_…
	UIDs         []uint32
	AnyUID       bool
}

// namespaceName is what Kubernetes allows (a DNS label).
var namespaceName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// ParseGrants reads NAMESPACE=WHAT,… with a capability, uid:NUMBER or uid:* for each WHAT. Its error names the entry.
func ParseGrants(lines []string) ([]Grant, error) {
	var out []Grant
	for _, line := range lines {
		g, err := parseGrant(line)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", line, err)
		}
		if slices.ContainsFunc(out, func(o Grant) bool { return o.Namespace == g.Namespace }) {
			return nil, fmt.Errorf("%q: namespace %s stands there twice, put both into one entry", line, g.Namespace)
		}
		out = append(out, g)
	}
	return out, nil
}

func parseGrant(line string) (Grant, error) {
	name, list, ok := strings.Cut(line, "=")
	if !ok || list == "" {
		return Grant{}, fmt.Errorf(`write NAMESPACE=WHAT,WHAT with capabilities and users, as in "web=NET_ADMIN,uid:0"`)
	}
	if !namespaceName.MatchString(name) {
		return Grant{}, fmt.Errorf("%q is no DNS label, which a namespace's name must be", name)
	}
	g := Grant{Namespace: name}
	for what := range strings.SplitSeq(list, ",") {
		what = strings.TrimSpace(what)
		if number, isUser := strings.CutPrefix(what, "uid:"); isUser {
			if number == "*" {
				g.AnyUID = true
				continue
			}
			n, err := strconv.ParseUint(number, 10, 32)
			if err != nil || n == 1<<32-1 {
				return g, fmt.Errorf("%q is no user, write uid:NUMBER or uid:*", what)
			}
			g.UIDs = append(g.UIDs, uint32(n))
			continue
		}
		c, ok := capabilityName(what)
		if !ok {
			return g, fmt.Errorf("%q is neither a capability, as NET_ADMIN is one, nor uid:NUMBER", what)
		}
		g.Capabilities = append(g.Capabilities, c)
	}
	return g, nil
}

// granted gives a namespace's grant; the zero value where it has none.
func (r Rules) granted(namespace string) Grant {
	for _, g := range r.Grants {
		if g.Namespace == namespace {
			return g
		}
	}
	return Grant{}
}
