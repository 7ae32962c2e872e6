package kubelet

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// object makes a ConfigMap and a Secret of one name and gives it; they go when the test ends.
func (n *node) settings(t testing.TB, data map[string]string) string {
	t.Helper()
	api := n.Client.CoreV1()
	m, err := api.ConfigMaps(namespace).Create(limited(t), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "settings-"}, Data: data}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := api.Secrets(namespace).Create(limited(t), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: m.Name}, StringData: data}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := api.ConfigMaps(namespace).Delete(limited(t), m.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
		if err := api.Secrets(namespace).Delete(limited(t), m.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	return m.Name
}

func TestVolumesOfEverySort(t *testing.T) {
	t.Parallel()
	n := start(t)
	name := n.settings(t, map[string]string{"colour": "blue", "shape": "round"})
	host := t.TempDir()
	if err := os.WriteFile(filepath.Join(host, "note"), []byte("of the node\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	limit := resource.MustParse("16Mi")
	reader := sh("reader", app1, "sleep infinity")
	reader.Env = []corev1.EnvVar{
		{Name: "COLOUR", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: name}, Key: "colour"}}},
		{Name: "SHAPE", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: name}, Key: "shape"}}},
		{Name: "POD_NAME", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}},
	}
	reader.VolumeMounts = []corev1.VolumeMount{
		{Name: "disk", MountPath: "/disk"}, {Name: "disk", MountPath: "/part", SubPath: "a/part"},
		{Name: "disk", MountPath: "/named", SubPathExpr: "of-$(POD_NAME)"},
		{Name: "memory", MountPath: "/memory"}, {Name: "config", MountPath: "/config"},
		{Name: "config", MountPath: "/etc/colour", SubPath: "colour"}, {Name: "secret", MountPath: "/secret", ReadOnly: true},
		{Name: "host", MountPath: "/host"}, {Name: "about", MountPath: "/about"},
	}
	writer := sh("writer", app1, "echo shared > /disk/note; sleep infinity")
	writer.VolumeMounts = []corev1.VolumeMount{{Name: "disk", MountPath: "/disk"}}
	p := n.run(t, podOf("volumes", []corev1.Container{reader, writer}, func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{
			{Name: "disk", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			{Name: "memory", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: &limit}}},
			{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}}}},
			{Name: "secret", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: name}}},
			{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: host}}},
			{Name: "about", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{
				{Path: "name", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}}}}},
		}
	}))
	for script, want := range map[string]string{
		"echo $COLOUR $SHAPE": "blue round",
		"until cat /disk/note; do sleep 0.05; done 2>/dev/null":           "shared",
		"echo x > /part/y; cat /disk/a/part/y":                            "x",
		"echo z > /named/y; cat /disk/of-$POD_NAME/y":                     "z",
		"grep -c '^tmpfs /memory tmpfs' /proc/mounts":                     "1",
		"df -m /memory | tail -1 | awk '{print $2}'":                      "16",
		"cat /config/colour /config/shape":                                "blueround",
		"cat /etc/colour":                                                 "blue",
		"cat /secret/shape; touch /secret/x 2>/dev/null || echo :refused": "round:refused",
		"cat /host/note":  "of the node",
		"cat /about/name": p.name,
	} {
		if got := p.inside(t, "reader", script); got != want {
			t.Errorf("%s: %q, want %q", script, got, want)
		}
	}
}

func TestServiceAccountTokenIsGood(t *testing.T) {
	t.Parallel()
	n := start(t)
	p := n.run(t, podOf("account", []corev1.Container{sh("app", app1, "sleep infinity")}))
	const dir = "/var/run/secrets/kubernetes.io/serviceaccount"
	review, err := n.Client.AuthenticationV1().TokenReviews().Create(limited(t),
		&authv1.TokenReview{Spec: authv1.TokenReviewSpec{Token: p.inside(t, "app", "cat "+dir+"/token")}}, metav1.CreateOptions{})
	if err != nil || !review.Status.Authenticated || review.Status.User.Username != "system:serviceaccount:default:default" {
		t.Errorf("the token that the pod sees: %+v, %v", review.Status, err)
	}
	if got := p.inside(t, "app", "cat "+dir+"/namespace"); got != namespace {
		t.Errorf("namespace file: %q", got)
	}
	ca, err := os.ReadFile(n.Config.CAFile)
	if err != nil || p.inside(t, "app", "cat "+dir+"/ca.crt") != strings.TrimSpace(string(ca)) {
		t.Errorf("ca.crt is not the cluster's (%v)", err)
	}
}
