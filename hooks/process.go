package hooks

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Container is what a hook's process is made from.
type Container struct {
	Name      string
	Namespace string // of its pod
	// Process is the application's, as a plain container would have it.
	Process *specs.Process
	// User resolves a hook's user in the image.
	User func(user string) (specs.User, error)
}

// Process gives the process of a hook: the container's own with another command line, and with what the hook asks for beside
// it. env comes last. Errors are PermissionDenied where the hook asks for more than its container has and the node does not
// grant it, InvalidArgument where the image has no such user; both name the hook, the annotation and the fix.
func (r Rules) Process(h Hook, by string, c Container, env []string) (*specs.Process, error) {
	p := *c.Process
	p.Args, p.Terminal, p.ConsoleSize = slices.Clone(h.Exec), false, nil
	p.Env = Environment(c.Process.Env, slices.Concat(h.Env, env))
	if err := r.user(h, c, &p); err != nil {
		return nil, fmt.Errorf("%s: hook %q: %w", by, h.Name, err)
	}
	if err := r.capabilities(h, c, &p); err != nil {
		return nil, fmt.Errorf("%s: hook %q: %w", by, h.Name, err)
	}
	return &p, nil
}

// Environment lays variables over others. A later value of a name takes the earlier one's place.
func Environment(base, over []string) []string {
	out := slices.Clone(base)
	for _, e := range over {
		name, _, _ := strings.Cut(e, "=")
		i := slices.IndexFunc(out, func(o string) bool { return strings.HasPrefix(o, name+"=") })
		if i >= 0 {
			out[i] = e
			continue
		}
		out = append(out, e)
	}
	return out
}

// user sets the hook's user. Root with the right to become anybody may run a hook as anybody: it could do so itself.
func (r Rules) user(h Hook, c Container, p *specs.Process) error {
	if h.User == "" {
		return nil
	}
	user, err := c.User(h.User)
	if err != nil {
		return fmt.Errorf("field user: %w", err)
	}
	own := c.Process.User
	_, group, _ := strings.Cut(h.User, ":")
	if user.UID == own.UID && (group == "" || user.GID == own.GID) {
		return nil // the container's own, with all of its groups
	}
	g := r.granted(c.Namespace)
	if !becomesAnybody(c.Process) && !g.AnyUID && !slices.Contains(g.UIDs, user.UID) {
		return fmt.Errorf("field user: user %d with group %d is another one than container %q has (%d, %d): remove the field, or let the node's administrator allow it for namespace %q (uid:%d in hooks.grants): %w",
			user.UID, user.GID, c.Name, own.UID, own.GID, c.Namespace, user.UID, errdefs.ErrPermissionDenied)
	}
	user.Umask, user.Username = own.Umask, own.Username
	p.User = user
	// The home is the user's: where the variable is missing it is looked up for whoever runs the process.
	return nil
}

func becomesAnybody(p *specs.Process) bool {
	return p.User.UID == 0 && p.Capabilities != nil &&
		slices.Contains(p.Capabilities.Bounding, "CAP_SETUID") && slices.Contains(p.Capabilities.Bounding, "CAP_SETGID")
}

// reach is what the container's program has or can come to have: root its whole bounding set; another user that set too, through
// set-id files and file capabilities of the image, unless it can get no new privileges.
func reach(p *specs.Process) []string {
	switch {
	case p.Capabilities == nil:
		return nil
	case p.User.UID == 0 || !p.NoNewPrivileges:
		return p.Capabilities.Bounding
	}
	return p.Capabilities.Ambient
}

// capabilities adds those that the hook asks for. A user who is not root has them only if they are ambient (capabilities(7)).
func (r Rules) capabilities(h Hook, c Container, p *specs.Process) error {
	if len(h.Capabilities) == 0 {
		return nil
	}
	granted, own := r.granted(c.Namespace).Capabilities, reach(c.Process)
	caps := specs.LinuxCapabilities{}
	if p.Capabilities != nil {
		caps = *p.Capabilities
	}
	for _, name := range h.Capabilities {
		if !slices.Contains(own, name) && !slices.Contains(granted, name) {
			return fmt.Errorf("field capabilities: %s is more than container %q has: remove it, or let the node's administrator allow it for namespace %q (%s in hooks.grants): %w",
				name, c.Name, c.Namespace, strings.TrimPrefix(name, "CAP_"), errdefs.ErrPermissionDenied)
		}
		sets := []*[]string{&caps.Bounding, &caps.Permitted, &caps.Effective}
		if p.User.UID != 0 {
			sets = append(sets, &caps.Inheritable, &caps.Ambient)
		}
		for _, set := range sets {
			if !slices.Contains(*set, name) {
				*set = append(slices.Clone(*set), name)
			}
		}
	}
	p.Capabilities = &caps
	return nil
}
