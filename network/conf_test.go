package network

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// settle waits until the folder was read and Ready is as wanted: nil for "", else an error with the text in it.
func (n *node) settle(t *testing.T, says string) {
	t.Helper()
	deadline := time.After(time.Minute)
	for {
		next := n.conf.next()
		err := n.Ready(t.Context())
		if says == "" && err == nil || says != "" && errdefs.IsUnavailable(err) && strings.Contains(err.Error(), says) {
			return
		}
		select {
		case <-next:
		case <-deadline:
			t.Fatalf("Ready gives %v, want %q", err, says)
		}
	}
}

func TestReadyFollowsTheFolder(t *testing.T) {
	n := newNode(t)
	n.fakePlugin(t, "fake", "true")
	dir := n.o.CNIConfDir
	conf := func(dir, file, text string) { mustMkdir(t, dir); mustWrite(t, filepath.Join(dir, file), text, 0o644) }

	n.settle(t, dir)
	for _, step := range []struct {
		name string
		do   func()
		says string
	}{
		{"a file comes", func() { conf(dir, "10-a.conflist", fakeConf) }, ""},
		{"it breaks", func() { conf(dir, "10-a.conflist", "{") }, "10-a.conflist"},
		{"it is written again in place", func() { must(t, os.WriteFile(filepath.Join(dir, "10-a.conflist"), []byte(fakeConf), 0o644)) }, ""},
		{"it goes", func() { must(t, os.Remove(filepath.Join(dir, "10-a.conflist"))) }, "no CNI configuration"},
		{"the folder goes", func() { must(t, os.RemoveAll(dir)) }, "no CNI configuration"},
		{"the folder comes with a file", func() { conf(dir, "10-a.conf", `{"cniVersion":"0.4.0","name":"one","type":"fake"}`) }, ""},
		{"the folder is replaced by an empty one", func() { must(t, os.Rename(dir, dir+".old")); mustMkdir(t, dir) }, "no CNI configuration"},
		{"the new folder gets a file", func() { conf(dir, "10-b.conflist", fakeConf) }, ""},
		{"the folder is replaced by a link", func() { must(t, os.RemoveAll(dir)); must(t, os.Symlink(dir+".old", dir)) }, ""},
		{"a file comes first that has no plugins", func() { conf(dir, "00.conflist", `{"cniVersion":"1.0.0","name":"x","plugins":[]}`) }, "no plugins"},
		{"it gets one that is not installed", func() { conf(dir, "00.conflist", strings.Replace(fakeConf, `"type":"fake"`, `"type":"absent"`, 1)) }, `"absent"`},
	} {
		step.do()
		t.Log(step.name)
		n.settle(t, step.says)
	}
}

func TestReadyNamesAMissingPlugin(t *testing.T) {
	n := newNode(t)
	n.configure(t, fakeConf)
	n.settle(t, n.o.CNIBinDirs[0])
	n.fakePlugin(t, "fake", "true") // nothing tells of it; it is looked for at each question
	must(t, n.Ready(t.Context()))
}

func TestFolderAndItsParentsMayComeLater(t *testing.T) {
	n := newNode(t, func(o *Options) { o.CNIConfDir = filepath.Join(filepath.Dir(o.CNIConfDir), "a", "b", "net.d") })
	n.fakePlugin(t, "fake", "true")
	base := filepath.Dir(filepath.Dir(n.o.CNIConfDir))
	must(t, os.RemoveAll(base))
	n.settle(t, n.o.CNIConfDir)
	mustMkdir(t, n.o.CNIConfDir)
	mustWrite(t, filepath.Join(n.o.CNIConfDir, "1.conflist"), fakeConf, 0o644)
	n.settle(t, "")
}

func TestAttachWithoutConfigurationSaysWhatToDo(t *testing.T) {
	n := newNode(t)
	pod := testPod("pod1")
	n.pin(t, pod)
	_, err := n.Attach(t.Context(), pod)
	if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), n.o.CNIConfDir) || !strings.Contains(err.Error(), "put one there") {
		t.Errorf("got %v, want the folder and the fix", err)
	}
}

func TestPluginsInFilesOfTheirOwnArePartOfTheConfiguration(t *testing.T) {
	n := newNode(t)
	n.fakePlugin(t, "fake", "true")
	dir := filepath.Join(n.o.CNIConfDir, "split")
	mustMkdir(t, dir)
	mustWrite(t, filepath.Join(dir, "1.conf"), `{"type":"fake"}`, 0o644)
	n.configure(t, `{"cniVersion":"1.1.0","name":"split","disableGC":true}`)
	n.settle(t, "")
	list, err := n.conf.current()
	must(t, err)
	if len(list.Plugins) != 1 || !strings.Contains(string(list.Bytes), `"type":"fake"`) || !list.DisableGC {
		t.Errorf("configuration is %s", list.Bytes)
	}
}
