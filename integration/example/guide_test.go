package example

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const guide = "../../docs/rich-guide.md"

// The guide quotes the example's manifest: each line of its YAML stands there.
func TestTheGuideQuotesTheExample(t *testing.T) {
	manifest, err := os.ReadFile("../../examples/rich-systemd/pod.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(guide)
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if len(blocks) == 0 {
		t.Fatal("the guide has no YAML")
	}
	for _, block := range blocks {
		for line := range strings.Lines(block[1]) {
			quoted, _, _ := strings.Cut(line, "#")
			if !strings.Contains(string(manifest), strings.TrimRight(quoted, " \n")+"\n") && !strings.Contains(string(manifest), strings.TrimRight(quoted, " \n")+" ") {
				t.Errorf("the example's pod.yaml has no line %q", strings.TrimSpace(line))
			}
		}
	}
}

// A user looks for the message that he sees: each that the guide lists is one of the program's.
func TestTheGuideListsMessagesThatExist(t *testing.T) {
	text, err := os.ReadFile(guide)
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "| message |")
	table, _, _ = strings.Cut(table, "\n\n")
	var source strings.Builder
	for _, room := range []string{"richcontainer", "cri"} {
		err := filepath.WalkDir(filepath.Join("../..", room), func(name string, d fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
				return err
			}
			b, err := os.ReadFile(name)
			source.Write(b)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	messages := 0
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "|")
		if len(cells) < 3 {
			continue
		}
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[1], -1) {
			if messages++; !strings.Contains(source.String(), m[1]) {
				t.Errorf("nothing says %q", m[1])
			}
		}
	}
	if messages < 10 {
		t.Errorf("the guide lists %d messages", messages)
	}
}

// Each example says how its image is built, under the name that its pod has.
func TestTheReadmesBuildWhatThePodsRun(t *testing.T) {
	pods, err := filepath.Glob("../../examples/*/pod.yaml")
	if err != nil || len(pods) == 0 {
		t.Fatal(pods, err)
	}
	for _, pod := range pods {
		manifest, err := os.ReadFile(pod)
		if err != nil {
			t.Fatal(err)
		}
		readme, err := os.ReadFile(filepath.Join(filepath.Dir(pod), "README.md"))
		if err != nil {
			t.Error(err)
			continue
		}
		image := regexp.MustCompile(`(?m)^ *image: (\S+)`).FindSubmatch(manifest)
		if image == nil || !strings.Contains(string(readme), "docker build -t "+string(image[1])+" .") {
			t.Errorf("%s: the README does not build %q", pod, image)
		}
	}
}
