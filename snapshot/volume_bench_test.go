package snapshot

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// BenchmarkVolumesAreMade measures the first container of a pod whose image has a VOLUME, empty and with files, and the
// others, which find it.
func BenchmarkVolumesAreMade(b *testing.B) {
	if os.Getuid() != 0 {
		b.Skip("needs root: owners")
	}
	for _, files := range []int{0, 20, 2000} {
		root := b.TempDir()
		if err := os.MkdirAll(filepath.Join(root, "data"), 0o755); err != nil {
			b.Fatal(err)
		}
		for i := range files {
			if err := os.WriteFile(filepath.Join(root, "data", fmt.Sprint(i)), make([]byte, 8000), 0o644); err != nil {
				b.Fatal(err)
			}
		}
		v, err := openVolumes(b.TempDir(), 1<<30, 1<<20, quiet())
		if err != nil {
			b.Fatal(err)
		}
		prepare := func(b *testing.B, pod string) {
			b.Helper()
			if _, err := v.Prepare(context.Background(), NewVolumes{Pod: pod, Container: "c", Rootfs: root, Paths: []string{"/data"}}); err != nil {
				b.Fatal(err)
			}
		}
		pod := 0
		b.Run(fmt.Sprintf("new/%d-files", files), func(b *testing.B) {
			for b.Loop() {
				pod++
				prepare(b, fmt.Sprint("pod", pod))
			}
		})
		b.Run(fmt.Sprintf("inherited/%d-files", files), func(b *testing.B) {
			prepare(b, "pod1")
			for b.Loop() {
				prepare(b, "pod1")
			}
		})
	}
	b.Run("none", func(b *testing.B) {
		v, err := openVolumes(b.TempDir(), 1<<30, 1<<20, quiet())
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if paths, err := v.Paths(context.Background(), "pod", "c"); err != nil || len(paths) > 0 {
				b.Fatal(paths, err)
			}
		}
	})
}
