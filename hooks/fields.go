package hooks

import (
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/moby/sys/capability"
)

// Bounds of one hook.
const (
	maxArgs         = 256
	maxEnv          = 128
	maxCapabilities = 64
)

// ownVariables begins the names of the variables that hooks are given here.
const ownVariables = "POUCH_"

// field is one key of a hook's object.
type field struct {
	name string
	read func(p *parser, h *Hook) error
}

func fields() []field {
	return []field{
		{"name", readName},
		{"exec", readExec},
		{"env", readEnv},
		{"timeout", readTimeout},
		{"onFailure", readOnFailure},
		{"user", readUser},
		{"capabilities", readCapabilities},
		{"log", func(p *parser, h *Hook) (err error) { h.Log, err = p.boolean(); return err }},
	}
}

func fieldNames() string {
	var names []string
	for _, f := range fields() {
		names = append(names, f.name)
	}
	return strings.Join(names, ", ")
}

// hookName is what a hook can be called: it stands in messages, and before each line in the container's log.
var hookName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

func readName(p *parser, h *Hook) error {
	s, at, err := p.str()
	if err != nil {
		return err
	}
	if !hookName.MatchString(s) {
		return p.fail(at, "%q is no name: it has small letters, digits and '-', at most 63", cut(s))
	}
	h.Name = s
	return nil
}

func readExec(p *parser, h *Hook) error {
	list, at, err := p.strs(maxArgs, "arguments")
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return p.fail(at[0], "the list is empty, name the program")
	}
	if list[0] == "" {
		return p.fail(at[0], "the program's name is empty")
	}
	h.Exec = list
	return nil
}

func readEnv(p *parser, h *Hook) error {
	if _, err := p.open('{', `an object of strings, as in {"NAME": "value"}`); err != nil {
		return err
	}
	var seen []string
	for p.dec.More() {
		if len(seen) == maxEnv {
			return p.fail(p.next(), "at most %d variables are allowed", maxEnv)
		}
		name, at, err := p.key(seen)
		if err != nil {
			return err
		}
		switch {
		case name == "" || strings.Contains(name, "="):
			return p.fail(at, "%q is no name of a variable: it is empty, or has a '='", cut(name))
		case strings.HasPrefix(name, ownVariables):
			return p.fail(at, "%q: variables that begin with %s are cri-pouch's", cut(name), ownVariables)
		}
		value, _, err := p.str()
		if err != nil {
			return err
		}
		seen = append(seen, name)
		h.Env = append(h.Env, name+"="+value)
	}
	slices.Sort(h.Env)
	_, _, err := p.token()
	return err
}

func readTimeout(p *parser, h *Hook) error {
	s, at, err := p.str()
	if err != nil {
		return err
	}
	d, err := time.ParseDuration(s)
	limit, why := p.rules.maxTimeout()
	switch {
	case err != nil:
		return p.fail(at, `%q is no duration, write as in "5s" or "500ms"`, cut(s))
	case d <= 0:
		return p.fail(at, "%s is no time to run in, give more than 0s", d)
	case d > limit:
		return p.fail(at, "%s is above %s, %s", d, why, limit)
	}
	h.Timeout = d
	return nil
}

func readOnFailure(p *parser, h *Hook) error {
	s, at, err := p.str()
	if err != nil {
		return err
	}
	if s != "fail" && s != "ignore" {
		return p.fail(at, "%q is neither fail nor ignore", cut(s))
	}
	h.Ignore = s == "ignore"
	return nil
}

// hookUser is a user by number or name, and perhaps a group. What no account can be called would be an odd line in a message.
var hookUser = regexp.MustCompile(`^[a-zA-Z0-9_][-a-zA-Z0-9_.]{0,63}\$?(:[a-zA-Z0-9_][-a-zA-Z0-9_.]{0,63}\$?)?$`)

func readUser(p *parser, h *Hook) error {
	s, at, err := p.str()
	if err != nil {
		return err
	}
	if !hookUser.MatchString(s) {
		return p.fail(at, "%q is no user: write UID, UID:GID, or names of the image", cut(s))
	}
	h.User = s
	return nil
}

func readCapabilities(p *parser, h *Hook) error {
	list, at, err := p.strs(maxCapabilities, "capabilities")
	if err != nil {
		return err
	}
	for i, s := range list {
		name, ok := capabilityName(s)
		if !ok {
			return p.fail(at[i], "%q is no capability, as NET_ADMIN is one", cut(s))
		}
		if slices.Contains(h.Capabilities, name) {
			return p.fail(at[i], "%s stands there twice", name)
		}
		h.Capabilities = append(h.Capabilities, name)
	}
	return nil
}

// capabilityName gives a capability's whole name, for one with or without "CAP_".
func capabilityName(s string) (string, bool) {
	name := "CAP_" + strings.TrimPrefix(s, "CAP_")
	known := slices.ContainsFunc(capability.ListKnown(), func(c capability.Cap) bool { return "CAP_"+strings.ToUpper(c.String()) == name })
	return name, known
}
