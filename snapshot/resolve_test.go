package snapshot

import (
	"context"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
)

// secured asks for credentials before a registry: basic ones, or a token of the realm.
func (r *reg) secured(realm string) {
	r.intercept(func(w http.ResponseWriter, req *http.Request) bool {
		if user, pass, ok := req.BasicAuth(); realm == "" && ok && user == "u" && pass == "p" {
			return false
		}
		if realm != "" && req.Header.Get("Authorization") == "Bearer good" {
			return false
		}
		if realm == "" {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		} else {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf("Bearer realm=%q,service=\"s\"", realm))
		}
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
}

// tokens is a token service; it notes whether anybody showed it a secret.
type tokens struct {
	*httptest.Server
	mu    sync.Mutex
	shown bool
}

func newTokens(t *testing.T, withTLS bool) *tokens {
	t.Helper()
	s := &tokens{}
	h := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		_ = req.ParseForm()
		user, pass, _ := req.BasicAuth()
		if req.Form.Get("password") != "" {
			user, pass = req.Form.Get("username"), req.Form.Get("password")
		}
		secret := user + pass + req.Form.Get("refresh_token")
		s.mu.Lock()
		s.shown = s.shown || secret != ""
		s.mu.Unlock()
		if secret != "up" && secret != "identity" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = w.Write([]byte(`{"token":"good","access_token":"good","expires_in":300}`))
	})
	if withTLS {
		s.Server = httptest.NewTLSServer(h)
	} else {
		s.Server = httptest.NewServer(h)
	}
	t.Cleanup(s.Close)
	return s
}

func (s *tokens) sawSecret() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shown
}

func TestCredentials(t *testing.T) {
	for _, c := range []struct {
		name   string
		bearer bool
		auth   func(host string) *Auth
		ok     bool
	}{
		{"basic", false, func(string) *Auth { return &Auth{Username: "u", Password: "p"} }, true},
		{"basic: right address", false, func(h string) *Auth {
			return &Auth{Username: "u", Password: "p", ServerAddress: "http://" + h + "/v1/"}
		}, true},
		{"basic: other address", false, func(string) *Auth { return &Auth{Username: "u", Password: "p", ServerAddress: "other.example"} }, false},
		{"basic: wrong password", false, func(string) *Auth { return &Auth{Username: "u", Password: "x"} }, false},
		{"basic: none", false, func(string) *Auth { return nil }, false},
		{"bearer", true, func(string) *Auth { return &Auth{Username: "u", Password: "p"} }, true},
		{"bearer: other address", true, func(string) *Auth { return &Auth{Username: "u", Password: "p", ServerAddress: "other.example"} }, false},
		{"bearer: wrong password", true, func(string) *Auth { return &Auth{Username: "u", Password: "x"} }, false},
		{"bearer: identity token", true, func(string) *Auth { return &Auth{IdentityToken: "identity"} }, true},
		{"bearer: none", true, func(string) *Auth { return nil }, false},
		{"registry token", true, func(string) *Auth { return &Auth{RegistryToken: "good"} }, true},
		{"registry token: other address", true, func(string) *Auth { return &Auth{RegistryToken: "good", ServerAddress: "other.example"} }, false},
		{"registry token: wrong", true, func(string) *Auth { return &Auth{RegistryToken: "bad"} }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			ref, r := simpleImage(t)
			// The token service is this registry's own host here; another one must be reached by TLS.
			realm := ""
			if c.bearer {
				realm = r.URL + "/token"
			}
			svc := newTokens(t, false)
			r.secured(realm)
			inner := r.before
			r.intercept(func(w http.ResponseWriter, req *http.Request) bool {
				if req.URL.Path == "/token" {
					svc.Config.Handler.ServeHTTP(w, req)
					return true
				}
				return inner(w, req)
			})
			_, err := l.Pull(context.Background(), ref, c.auth(r.host()))
			if c.ok != (err == nil) {
				t.Errorf("error is %v", err)
			}
			if !c.ok && (!errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), "secret")) {
				t.Errorf("error without its class or fix: %v", err)
			}
			if strings.Contains(c.name, "other address") && svc.sawSecret() {
				t.Error("the credentials of another registry were sent")
			}
		})
	}
}

func TestCredentialsDoNotGoToAForeignServiceInTheClear(t *testing.T) {
	l := newLab(t)
	ref, r := simpleImage(t)
	foreign := newTokens(t, false)
	r.secured(foreign.URL + "/token")
	_, err := l.Pull(context.Background(), ref, &Auth{Username: "u", Password: "p"})
	if !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), foreign.URL) {
		t.Errorf("error is %v", err)
	}
	if foreign.sawSecret() {
		t.Error("it got them")
	}
}

func TestCredentialsDoNotFollowARedirect(t *testing.T) {
	l := newLab(t)
	ref, r := simpleImage(t)
	var leaked sync.Map
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if a := req.Header.Get("Authorization"); a != "" {
			leaked.Store(req.URL.Path, a)
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="give me"`)
		r.store.ServeHTTP(w, req)
	}))
	defer other.Close()
	r.secured("")
	inner := r.before
	r.intercept(func(w http.ResponseWriter, req *http.Request) bool {
		if inner(w, req) {
			return true
		}
		if strings.Contains(req.URL.Path, "/blobs/") {
			http.Redirect(w, req, other.URL+req.URL.Path, http.StatusTemporaryRedirect)
			return true
		}
		return false
	})
	if _, err := l.Pull(context.Background(), ref, &Auth{Username: "u", Password: "p"}); err != nil {
		t.Fatal(err)
	}
	leaked.Range(func(k, v any) bool {
		t.Errorf("%v got %v", k, v)
		return true
	})
}

func TestMirrors(t *testing.T) {
	l := newLab(t)
	ref, r := simpleImage(t)
	_, path, _ := strings.Cut(ref, "/")
	upstream := "registry.example/" + path
	writeHosts(t, "registry.example", "server = \"https://registry.invalid\"\n[host.%q]\ncapabilities = [\"pull\", \"resolve\"]\n", r.URL)
	img := l.pull(upstream)
	if fmt.Sprint(img.RepoTags) != "["+upstream+"]" || !strings.HasPrefix(img.RepoDigests[0], "registry.example/app@") {
		t.Errorf("names are %v %v", img.RepoTags, img.RepoDigests)
	}
	writeHosts(t, "broken.example", "server = [")
	if _, err := l.Pull(context.Background(), "broken.example/a:1", nil); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "broken.example/hosts.toml") {
		t.Errorf("broken hosts.toml: %v", err)
	}
	// A mirror that is down is passed over.
	writeHosts(t, "second.example", "server = %q\n[host.\"http://127.0.0.1:1\"]\ncapabilities = [\"pull\", \"resolve\"]\n", r.URL)
	l.pull("second.example/" + path)
}

func TestTLS(t *testing.T) {
	l := newLab(t)
	_, r := simpleImage(t)
	s := httptest.NewTLSServer(r.store)
	defer s.Close()
	s.Config.ErrorLog = nil
	host := strings.TrimPrefix(s.URL, "https://")
	writeHosts(t, "tls.example", "server = %q\n", s.URL)
	_, err := l.Pull(context.Background(), "tls.example/app:1", nil)
	// On loopback containerd's configuration does not check certificates unless hosts.toml has a server of its own.
	if err == nil || !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "CA") {
		t.Errorf("unknown CA on %s: %v", host, err)
	}
	ca := filepath.Join(certs(t), "ca.crt")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	writeHosts(t, "tls.example", "server = %q\nca = %q\n", s.URL, ca)
	l.pull("tls.example/app:1")
}

func TestCanonicalHost(t *testing.T) {
	for in, want := range map[string]string{
		"docker.io": "docker.io", "https://index.docker.io/v1/": "docker.io", "registry-1.docker.io": "docker.io",
		"Reg.Example:5000": "reg.example:5000", "https://reg.example:443/v2": "reg.example", "reg.example/path": "reg.example", "http://[::1]:5": "[::1]:5",
	} {
		if got := canonicalHost(in); got != want {
			t.Errorf("canonicalHost(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestNormaliseReference(t *testing.T) {
	d := "sha256:" + strings.Repeat("a", 64)
	for in, want := range map[string]string{
		"busybox": "docker.io/library/busybox:latest", "busybox:1": "docker.io/library/busybox:1", "a/b": "docker.io/a/b:latest",
		"localhost/x": "localhost/x:latest", "r.example:5000/x/y:z": "r.example:5000/x/y:z", "x@" + d: "docker.io/library/x@" + d, "x:t@" + d: "docker.io/library/x@" + d,
	} {
		if got, err := NormaliseReference(in); err != nil || got != want {
			t.Errorf("NormaliseReference(%q) = %q, %v", in, got, err)
		}
	}
}
