package example

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/cri-pouch/cri-pouch/integration/lab"
)

// Image is what an example's Dockerfile says. Its FROM and its RUNs are the root filesystem that
// integration/scripts/rich-images.sh builds; the rest is here.
type Image struct {
	Config v1.Config
	Files  []lab.File // what COPY adds
}

// readDockerfile reads dir/Dockerfile with the files that it copies. Instructions that it does not know are errors: nobody
// would miss them.
func readDockerfile(dir string) (*Image, error) {
	b, err := os.ReadFile(filepath.Join(dir, "Dockerfile"))
	if err != nil {
		return nil, err
	}
	image := &Image{Config: v1.Config{Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}}}
	for _, line := range instructions(string(b)) {
		if err := image.apply(dir, line); err != nil {
			return nil, fmt.Errorf("%s: %q: %w", filepath.Join(dir, "Dockerfile"), line, err)
		}
	}
	if len(image.Config.Cmd) == 0 {
		return nil, fmt.Errorf("%s: there is no CMD", filepath.Join(dir, "Dockerfile"))
	}
	return image, nil
}

// instructions gives a Dockerfile's instructions, each on one line.
func instructions(text string) (list []string) {
	text = regexp.MustCompile(`(?m)^\s*#.*\n?`).ReplaceAllString(text, "")
	text = regexp.MustCompile(`\s*\\\n\s*`).ReplaceAllString(text, " ")
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			list = append(list, line)
		}
	}
	return list
}

func (i *Image) apply(dir, line string) error {
	instruction, rest, _ := strings.Cut(line, " ")
	switch instruction {
	case "FROM", "RUN": // rich-images.sh
		return nil
	case "COPY":
		words := strings.Fields(rest)
		if len(words) != 2 || !strings.HasSuffix(words[0], "/") {
			return fmt.Errorf("only a folder can be copied, as in COPY rootfs/ /")
		}
		files, err := folder(filepath.Join(dir, words[0]), words[1])
		i.Files = append(i.Files, files...)
		return err
	case "CMD":
		return json.Unmarshal([]byte(rest), &i.Config.Cmd)
	case "ENTRYPOINT":
		return json.Unmarshal([]byte(rest), &i.Config.Entrypoint)
	case "VOLUME":
		var paths []string
		err := json.Unmarshal([]byte(rest), &paths)
		i.Config.Volumes = map[string]struct{}{}
		for _, p := range paths {
			i.Config.Volumes[p] = struct{}{}
		}
		return err
	case "EXPOSE":
		i.Config.ExposedPorts = map[string]struct{}{}
		for _, port := range strings.Fields(rest) {
			i.Config.ExposedPorts[port+"/tcp"] = struct{}{}
		}
	case "STOPSIGNAL":
		i.Config.StopSignal = rest
	case "USER":
		i.Config.User = rest
	default:
		return fmt.Errorf("nothing here knows this instruction")
	}
	return nil
}

// folder gives the files below a folder of this machine as those of a layer, below the path to.
func folder(from, to string) (files []lab.File, err error) {
	err = filepath.WalkDir(from, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		below, err := filepath.Rel(from, name)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		f := lab.File{Name: strings.TrimPrefix(path.Join(to, below), "/"), Mode: 0o644}
		if info.Mode()&0o100 != 0 { // git keeps no other bit
			f.Mode = 0o755
		}
		if info.Mode()&fs.ModeSymlink != 0 {
			f.Link, err = os.Readlink(name)
		} else {
			f.Content, err = os.ReadFile(name)
		}
		files = append(files, f)
		return err
	})
	return files, err
}

// Build gives the example's image: its root filesystem from the folder images, then what COPY adds, changed by edit where
// that is given. os.ErrNotExist: rich-images.sh has not built the root filesystem.
func (e *Example) Build(images string, edit func(*lab.File)) (v1.Image, error) {
	base, err := lab.RootfsLayer(images, "example-"+strings.TrimPrefix(filepath.Base(e.Dir), "rich-"))
	if err != nil {
		return nil, err
	}
	files := slices.Clone(e.Image.Files)
	if edit != nil {
		for i := range files {
			edit(&files[i])
		}
	}
	top, err := lab.Layer(files...)
	if err != nil {
		return nil, err
	}
	return lab.Image(func(c *v1.ConfigFile) { c.Config = e.Image.Config }, base, top)
}
