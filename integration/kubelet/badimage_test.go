package kubelet

import (
	"encoding/base64"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cri-pouch/cri-pouch/integration/lab"
)

// An edit to an image that cannot be had: the kubelet says why in the pod's status, everything else of the pod goes on,
// and an edit to a good image repairs it.
func TestEditToABadImage(t *testing.T) {
	t.Parallel()
	n := start(t)
	n.pushForeign(t)
	private := n.addPrivateRegistry(t)
	n.addDeadRegistry(t)
	for name, c := range map[string]struct {
		image  string
		reason string // of the container's waiting
		text   string // in its message
	}{
		"malformed":        {"images.test/App:1", "InvalidImageName", "lowercase"},
		"two tags":         {"images.test/app:1:2", "InvalidImageName", "invalid reference format"},
		"missing":          {"images.test/nothing:1", "ErrImagePull", "not found"},
		"missing tag":      {"images.test/app:none", "ErrImagePull", "not found"},
		"wrong platform":   {"images.test/foreign:1", "ErrImagePull", "platform"},
		"unauthorised":     {private + "/app:1", "ErrImagePull", "pull secret"},
		"no such registry": {"dead.test/app:1", "RegistryUnavailable", "egistry"},
		"unknown digest":   {"images.test/app@sha256:" + strings.Repeat("0", 64), "ErrImagePull", "not found"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := n.run(t, upgradePod())
			before := p.look(t, "web")
			p.setImage(t, "web", c.image)
			var message string
			p.await(t, "the kubelet says why", func(now *corev1.Pod) bool {
				w := statusOf(now, "web").State.Waiting
				if w == nil {
					return false
				}
				message = w.Message
				return w.Reason == c.reason
			})
			if !strings.Contains(message, c.text) {
				t.Errorf("message %q has no %q", message, c.text)
			}
			p.setImage(t, "web", app2)
			p.awaitImage(t, "web", app2)
			before.sameBut(t, p.look(t, "web"))
		})
	}
}

func TestImageOfAPrivateRegistryWithASecret(t *testing.T) {
	t.Parallel()
	n := start(t)
	domain := n.addPrivateRegistry(t)
	login := base64.StdEncoding.EncodeToString([]byte("user:secret"))
	secret, err := n.Client.CoreV1().Secrets(namespace).Create(limited(t), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "login-"}, Type: corev1.SecretTypeDockerConfigJson,
		StringData: map[string]string{corev1.DockerConfigJsonKey: fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, domain, login)},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = n.Client.CoreV1().Secrets(namespace).Delete(limited(t), secret.Name, metav1.DeleteOptions{})
	})
	n.run(t, podOf("private", []corev1.Container{sh("app", domain+"/app:1", "sleep infinity")}, func(p *corev1.Pod) {
		p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: secret.Name}}
	}))
}

// pushForeign pushes an image of another platform.
func (n *node) pushForeign(t testing.TB) {
	t.Helper()
	img, err := lab.BusyboxImage("foreign", func(c *v1.ConfigFile) { c.Architecture = "s390x" })
	if err == nil {
		err = n.Lab.Images.Push("foreign:1", img)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// addPrivateRegistry starts a registry that asks for a user and gives the name that leads to it.
func (n *node) addPrivateRegistry(t testing.TB) string {
	t.Helper()
	r, err := lab.NewRegistry(lab.RegistryOptions{User: "user", Password: "secret", Bearer: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	img, err := lab.BusyboxImage("1", appConfig)
	if err == nil {
		err = r.Push("app:1", img)
	}
	_, port, err2 := net.SplitHostPort(r.Addr)
	if err2 != nil {
		t.Fatal(err2)
	}
	domain := "private-" + port + ".test"
	if err == nil {
		err = r.WriteHosts(filepath.Join(n.Lab.Dir, "certs.d"), domain)
	}
	if err != nil {
		t.Fatal(err)
	}
	return domain
}

// addDeadRegistry makes the name dead.test lead to a port on which nobody listens.
func (n *node) addDeadRegistry(t testing.TB) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := &lab.Registry{Addr: l.Addr().String()}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := dead.WriteHosts(filepath.Join(n.Lab.Dir, "certs.d"), "dead.test"); err != nil {
		t.Fatal(err)
	}
}
