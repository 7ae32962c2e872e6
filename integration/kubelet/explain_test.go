package kubelet

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// explain says what became of the pod of a failed test: its status, its events, and what kubelet and runtime logged.
func (p *pod) explain(t testing.TB) {
	t.Helper()
	now, err := p.n.Client.CoreV1().Pods(p.namespace).Get(limited(t), p.name, metav1.GetOptions{})
	if err != nil {
		t.Log(err)
		return
	}
	for _, c := range now.Status.Conditions {
		t.Logf("%s: %s is %s: %s %s", p.name, c.Type, c.Status, c.Reason, c.Message)
	}
	about := []string{p.name, string(now.UID)}
	for _, c := range slices.Concat(now.Status.InitContainerStatuses, now.Status.ContainerStatuses, now.Status.EphemeralContainerStatuses) {
		t.Logf("%s: container %s: %+v, before: %+v", p.name, c.Name, c.State, c.LastTerminationState)
		if id := idOf(c); id != "" {
			about = append(about, id)
		}
	}
	events, err := p.n.Client.CoreV1().Events(p.namespace).List(limited(t), metav1.ListOptions{FieldSelector: "involvedObject.name=" + p.name})
	if err != nil {
		t.Log(err)
		return
	}
	slices.SortStableFunc(events.Items, func(a, b corev1.Event) int { return a.LastTimestamp.Compare(b.LastTimestamp.Time) })
	for _, e := range events.Items {
		t.Logf("%s: %s %s: %s", p.name, e.LastTimestamp.Format(time.TimeOnly), e.Reason, e.Message)
	}
	for _, log := range []string{p.n.KubeletLog(), p.n.Lab.Daemon.Log} {
		t.Logf("%s says of %s:\n%s", log, p.name, mentions(log, about, 40))
	}
}

// mentions gives the last lines of a log that have one of the words.
func mentions(log string, words []string, limit int) string {
	b, err := os.ReadFile(log)
	if err != nil {
		return err.Error()
	}
	var lines []string
	for line := range strings.Lines(string(b)) {
		if slices.ContainsFunc(words, func(word string) bool { return strings.Contains(line, word) }) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines[max(0, len(lines)-limit):], "")
}
