package bench

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/cri-pouch/cri-pouch/integration/lab"
)

// The images, by the names that the runtimes know.
const (
	imageOld     = lab.Domain + "/app:1" // of the measured containers
	imageNew     = lab.Domain + "/app:2" // what they are upgraded to; it shares the first layer
	imagePause   = lab.Domain + "/pause:1"
	imagePulled  = lab.Domain + "/pulled:1" // nothing else uses its layers
	imageBig     = lab.Domain + "/big:1"
	imageBigNext = lab.Domain + "/big:2"
)

// The big image: layers whose content compresses to about a half, as programs do.
const (
	bigLayers    = 5
	bigFiles     = 100 // of each layer
	bigFileBytes = 100 << 10
)

func (b *bench) pushImages() error {
	for tag, build := range map[string]func() (v1.Image, error){
		"app:1":    func() (v1.Image, error) { return lab.BusyboxImage("one", nil) },
		"app:2":    func() (v1.Image, error) { return lab.BusyboxImage("two", nil) },
		"pause:1":  b.pauseImage,
		"pulled:1": func() (v1.Image, error) { return bigImage(99, 1, 0) },
		"big:1":    func() (v1.Image, error) { return bigImage(1, bigLayers, 0) },
		"big:2":    func() (v1.Image, error) { return bigImage(1, bigLayers, 1) },
	} {
		img, err := build()
		if err == nil {
			err = b.lab.Images.Push(tag, img)
		}
		if err != nil {
			return fmt.Errorf("make image %s: %w", tag, err)
		}
	}
	return nil
}

// pauseImage holds what a peer keeps its pods open with: pouch-init's holder, which is as small as such a program gets.
func (b *bench) pauseImage() (v1.Image, error) {
	program, err := os.ReadFile(filepath.Join(filepath.Dir(b.Binary), "pouch-init"))
	if err != nil {
		return nil, err
	}
	layer, err := lab.Layer(lab.File{Name: pauseProgram, Mode: 0o755, Content: program})
	if err != nil {
		return nil, err
	}
	return lab.Image(func(c *v1.ConfigFile) { c.Config.Entrypoint, c.Config.Cmd = []string{pauseProgram}, nil }, layer)
}

// pauseProgram is by its name what pouch-init plays.
const pauseProgram = "/hold"

// bigImage makes an image of layers; a next version differs in the last one only. The same arguments give the same bytes.
func bigImage(seed uint64, layers int, version uint64) (v1.Image, error) {
	var all []v1.Layer
	for n := range layers {
		random := rand.New(rand.NewPCG(seed, uint64(n)))
		if n == layers-1 {
			random = rand.New(rand.NewPCG(seed, 1000+version))
		}
		var files []lab.File
		for i := range bigFiles {
			content := make([]byte, bigFileBytes)
			for at := 0; at < len(content)/2; at++ {
				content[at] = byte(random.Uint32())
			}
			files = append(files, lab.File{Name: fmt.Sprintf("layer%d/file%d", n, i), Content: content})
		}
		layer, err := lab.Layer(files...)
		if err != nil {
			return nil, err
		}
		all = append(all, layer)
	}
	return lab.Image(nil, all...)
}
