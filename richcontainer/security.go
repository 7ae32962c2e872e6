package richcontainer

import (
	"slices"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// mayBeRoot refuses an init that would be more than CRI asks of the container. Root of a user namespace is nobody outside of
// it, and the administrator can trust a namespace or a handler.
func (n Node) mayBeRoot(r Request, app *specs.Process) error {
	if len(r.UIDs) > 0 || slices.Contains(n.RootNamespaces, r.Namespace) || r.Handler != "" && slices.Contains(n.RootHandlers, r.Handler) {
		return nil
	}
	fix := "use dumb-init mode, give the pod a user namespace (hostUsers: false), or let the node's administrator allow it for namespace %q or for a runtime handler (rich.root_namespaces, rich.root_handlers)"
	if canBecome(r) != nil {
		fix += "; all but dumb-init mode need the capabilities SETUID and SETGID, too" // a pod of the restricted profile has none
	}
	if app.User.UID != 0 {
		return r.Choice.refuse(errdefs.ErrPermissionDenied,
			"the init would run as root, but the container is to run as user %d (by runAsUser of the pod, or by USER of the image, which the kubelet passes on in the same way): "+fix, app.User.UID, r.Namespace)
	}
	if app.NoNewPrivileges {
		return r.Choice.refuse(errdefs.ErrPermissionDenied,
			"the init would run as root and start services of other users, but the container is to get no new privileges (allowPrivilegeEscalation: false): "+fix, r.Namespace)
	}
	return nil
}
