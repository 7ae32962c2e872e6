package kubelet

import (
	"context"
	"io"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/remotecommand"
)

func TestAttach(t *testing.T) {
	t.Parallel()
	n := start(t)
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			app := sh("app", app1, "while read line; do echo got $line; done")
			app.Stdin = true
			p := n.run(t, podOf("attach", []corev1.Container{app}))
			keyboard, keys := io.Pipe()
			screen, output := io.Pipe()
			ctx, cancel := context.WithCancel(limited(t))
			defer cancel()
			ended := make(chan error, 1)
			go func() {
				ended <- p.stream(ctx, protocol, "attach", &corev1.PodAttachOptions{Container: "app", Stdin: true, Stdout: true},
					remotecommand.StreamOptions{Stdin: keyboard, Stdout: output})
				output.Close()
			}()
			buf := make([]byte, 100)
			for _, word := range []string{"one", "two"} {
				if _, err := io.WriteString(keys, word+"\n"); err != nil {
					t.Fatal(err)
				}
				want := "got " + word + "\n"
				if _, err := io.ReadFull(screen, buf[:len(want)]); err != nil || string(buf[:len(want)]) != want {
					t.Fatalf("read %q (%v), want %q", buf[:len(want)], err, want)
				}
			}
			cancel()
			<-ended
			// The container goes on without its client.
			if s := statusOf(p.get(t), "app"); s.State.Running == nil || s.RestartCount != 0 {
				t.Errorf("after the client went: %+v", s.State)
			}
		})
	}
}
