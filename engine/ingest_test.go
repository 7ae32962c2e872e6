package engine

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
)

func TestATransferThatCannotGoOnDoesNotStopCollections(t *testing.T) {
	now, err := time.Now().MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	whole := map[string]string{"ref": "r", "data": "x", "startedat": string(now), "updatedat": string(now)}
	for name, lacks := range map[string]struct{ file, text string }{
		"no data (killed after the blob's rename)": {"data", ""}, "no name": {"ref", ""},
		"no start": {"startedat", ""}, "torn start": {"startedat", "2026-"}, "torn update": {"updatedat", "2026-"},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			dir := filepath.Join(root, "content", "ingest", "torn")
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			for file, text := range whole {
				if file == lacks.file {
					text = lacks.text
				}
				if text == "" {
					continue
				}
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			e := open(t, root)
			if _, err := os.Stat(dir); !os.IsNotExist(err) {
				t.Errorf("the folder is left: %v", err)
			}
			if err := e.StartCollecting(e.With(context.Background())); err != nil {
				t.Errorf("collection: %v", err)
			}
		})
	}
}

func TestATransferThatCanGoOnIsKept(t *testing.T) {
	root := t.TempDir()
	e := open(t, root)
	ctx := e.With(context.Background())
	w, err := e.Content.Writer(ctx, content.WithRef("layer"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("half")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	e = open(t, root)
	if st, err := e.Content.Status(e.With(context.Background()), "layer"); err != nil || st.Offset != 4 {
		t.Errorf("%+v %v", st, err)
	}
}
