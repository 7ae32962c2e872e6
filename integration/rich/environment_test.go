package rich

import (
	"slices"
	"strings"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
	"github.com/cri-pouch/cri-pouch/integration/lab"
)

// A job of cron has a variable as the container has it, or not at all: what /etc/environment cannot carry is left out.
func TestCronJobsHaveExactValuesOrNone(t *testing.T) {
	exact := map[string]string{
		"PLAIN": "value", "EMPTY": "", "SPACES": "  two  ", "QUOTED": `"quoted"`, "SINGLE": "it's", "BOTH": `it's "both`, "BACK": `back\`, "EQUALS": "a=b=c",
		"SHELL_LIKE": "$HOME `id` ${x} @{HOME}", "UNICODE": "é", "PERCENT": "%n%%", "TABS": "\tt\t", "LONGEST": strings.Repeat("x", 980),
	}
	absent := map[string]string{"HASH": "ab#cd", "COMMENT": "# no comment", "LINES": "one\ntwo", "RETURN": "one\rtwo", "LONG": strings.Repeat("x", 1000)}
	for _, m := range []machine{{"systemd", "systemd"}, {"trixie", "systemd"}, {"sysvinit", "sbin-init"}} {
		t.Run(m.name(), func(t *testing.T) {
			t.Parallel()
			base(t, m.image)
			n := harness.Start(t)
			ref := push(t, n, m.image, "cron", nil, lab.File{Name: "etc/cron.d/lab", Content: []byte("@reboot root env -0 >/var/log/cron.new; mv /var/log/cron.new /var/log/cron-ran\n")})
			c := n.RunPod(t, pod(m.mode)).Run(t, "app", probe(ref, "wait", "exit=0"), func(c *runtime.ContainerConfig) {
				for _, values := range []map[string]string{exact, absent} {
					for name, value := range values {
						c.Envs = append(c.Envs, variable("X_"+name, value))
					}
				}
			})
			c.AwaitLine(t, boot, "waiting")
			harness.Eventually(t, "the job of cron has run", func() bool { code, _ := exec(t, c, "test", "-e", "/var/log/cron-ran"); return code == 0 })
			job := strings.Split(c.Exec(t, "cat", "/var/log/cron-ran"), "\x00")
			for name, value := range exact {
				if !slices.Contains(job, "X_"+name+"="+value) {
					t.Errorf("the job has no %s with the value %.100q", name, value)
				}
			}
			for name := range absent {
				if i := slices.IndexFunc(job, func(v string) bool { return strings.HasPrefix(v, "X_"+name+"=") }); i >= 0 {
					t.Errorf("the job has %.100q", job[i])
				}
			}
			c.Stop(t, 90)
		})
	}
}
