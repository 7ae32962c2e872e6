package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"
)

// resolver reaches the registries as RegistryConfigDir says, with the credentials of one pull. hosts.toml is read anew
// by each pull, so that an edit counts at once.
func (s *Store) resolver(auth *Auth) remotes.Resolver {
	g := &realmGuard{auth: auth}
	o := config.HostOptions{
		HostDir:     config.HostDirFromRoot(s.opts.RegistryConfigDir),
		Credentials: auth.forHost,
		UpdateClient: func(c *http.Client) error {
			c.Transport = g.wrap(c.Transport)
			return nil
		},
	}
	hosts := func(host string) ([]docker.RegistryHost, error) {
		err := checkHosts(o.HostDir, host)
		var found []docker.RegistryHost
		if err == nil {
			found, err = config.ConfigureHosts(context.Background(), o)(host)
		}
		if err != nil {
			return nil, imageError(errdefs.ErrFailedPrecondition, "the configuration of registry %s below %s cannot be used (%w)", host, s.opts.RegistryConfigDir, err)
		}
		for i := range found {
			g.allow(found[i])
			if auth != nil && auth.RegistryToken != "" && auth.mayGo(found[i].Host) {
				found[i].Header = withBearer(found[i].Header, auth.RegistryToken)
				found[i].Authorizer = nil // the token is the answer to every challenge
			}
		}
		return found, nil
	}
	return docker.NewResolver(docker.ResolverOptions{Hosts: hosts})
}

// checkHosts refuses a hosts.toml that is no TOML: containerd's reader passes it over, and would go past the mirrors.
func checkHosts(find func(string) (string, error), host string) error {
	dir, err := find(host)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	path := filepath.Join(dir, "hosts.toml")
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var any map[string]any
	if err := toml.Unmarshal(raw, &any); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func withBearer(h http.Header, token string) http.Header {
	if h = h.Clone(); h == nil {
		h = http.Header{}
	}
	h.Set("Authorization", "Bearer "+token)
	return h
}

// forHost gives the credentials that host may get: user and password, or "" and an identity token.
func (a *Auth) forHost(host string) (string, string, error) {
	if a == nil || !a.mayGo(host) {
		return "", "", nil
	}
	if a.IdentityToken != "" {
		return "", a.IdentityToken, nil
	}
	return a.Username, a.Password, nil
}

// mayGo says whether a host of the pull may get the credentials.
func (a *Auth) mayGo(host string) bool {
	return a.ServerAddress == "" || canonicalHost(a.ServerAddress) == canonicalHost(host)
}

// canonicalHost is the host (with its port) of an address as docker writes them: with or without scheme and path, and
// with three names for Docker Hub.
func canonicalHost(address string) string {
	if !strings.Contains(address, "://") {
		address = "https://" + address
	}
	u, err := url.Parse(address)
	if err != nil {
		return address
	}
	host := strings.ToLower(u.Host)
	switch host {
	case "index.docker.io", "registry-1.docker.io":
		return "docker.io"
	}
	return strings.TrimSuffix(host, ":443")
}

// realmGuard keeps credentials where they belong. A registry that is reached by TLS may name any token service as its
// realm, but not one in clear text on another host; and credentials do not follow a redirect to another host or port
// (net/http compares names only). (That a challenge
// of a foreign server never gets the registry's credentials is seen to by forHost, which is asked by the host that was
// spoken to: CVE-2020-15157.)
type realmGuard struct {
	auth  *Auth
	mu    sync.Mutex
	hosts map[string]bool // of the pull; true: it may be reached without TLS
}

// allow notes a host of the pull, and whether it is spoken to in clear text: by configuration, or as it is this machine.
func (g *realmGuard) allow(h docker.RegistryHost) {
	_, direct := h.Client.Transport.(guarded) // else: http is tried where https fails, as configured
	plain := !direct || h.Scheme == "http" || docker.IsLocalhost(h.Host)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.hosts == nil {
		g.hosts = map[string]bool{}
	}
	g.hosts[h.Host] = plain
}

// host says whether a host is one of the pull's, and whether it may be reached without TLS.
func (g *realmGuard) host(name string) (ours, plain bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	plain, ours = g.hosts[name]
	return ours, plain
}

func (g *realmGuard) wrap(base http.RoundTripper) http.RoundTripper {
	return guarded{g: g, base: base}
}

type guarded struct {
	g    *realmGuard
	base http.RoundTripper
}

// RoundTrip takes credentials off a redirect that leaves the pull's hosts, and refuses a request that would show them to
// the network.
func (t guarded) RoundTrip(req *http.Request) (*http.Response, error) {
	ours, plain := t.g.host(req.URL.Host)
	if req.Response != nil && !ours { // the answer that redirected
		req = req.Clone(req.Context())
		req.Header.Del("Authorization")
	}
	if req.URL.Scheme == "http" && !plain && t.g.auth != nil && carriesSecret(req) {
		return nil, fmt.Errorf("%w: the registry wants them sent to %s://%s", errForeignRealm, req.URL.Scheme, req.URL.Host)
	}
	return t.base.RoundTrip(req)
}

// carriesSecret says whether a request has credentials: in its header, or as a token service's form.
func carriesSecret(req *http.Request) bool {
	return req.Header.Get("Authorization") != "" || (req.Method == http.MethodPost && strings.HasPrefix(req.Header.Get("Content-Type"), "application/x-www-form-urlencoded"))
}
