package kubelet

import (
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/cri-pouch/cri-pouch/integration/lab"
)

// Images of the node's registry; /version tells them apart. app1Again is app1 by another tag. The last two have a VOLUME
// and a folder of configuration.
const (
	app1      = lab.Domain + "/app:1"
	app1Again = lab.Domain + "/app:again"
	app2      = lab.Domain + "/app:2"
	volumes1  = lab.Domain + "/volumes:1"
	volumes2  = lab.Domain + "/volumes:2"
)

func (n *node) pushImages() error {
	for tag, version := range map[string]string{"app:1": "1", "app:again": "1", "app:2": "2"} {
		img, err := lab.BusyboxImage(version, appConfig)
		if err != nil {
			return err
		}
		if err := n.Lab.Images.Push(tag, img); err != nil {
			return err
		}
	}
	for version := 1; version <= 2; version++ {
		img, err := volumeImage(fmt.Sprint(version))
		if err != nil {
			return err
		}
		if err := n.Lab.Images.Push(fmt.Sprintf("volumes:%d", version), img); err != nil {
			return err
		}
	}
	return nil
}

// appConfig makes a container end at once when it is asked to: a shell as process 1 ignores SIGTERM.
func appConfig(c *v1.ConfigFile) { c.Config.StopSignal = "SIGKILL" }

// volumeImage declares the VOLUME /srv/data; there and in /etc/app is a file that names the version.
func volumeImage(version string) (v1.Image, error) {
	files, err := lab.BusyboxFiles()
	if err != nil {
		return nil, err
	}
	seed := []byte("of image " + version + "\n")
	layer, err := lab.Layer(append(files, lab.File{Name: "version", Content: []byte(version + "\n")},
		lab.File{Name: "srv/data/seed", Content: seed}, lab.File{Name: "etc/app/seed", Content: seed})...)
	if err != nil {
		return nil, err
	}
	return lab.Image(func(c *v1.ConfigFile) {
		appConfig(c)
		c.Config.Volumes = map[string]struct{}{"/srv/data": {}}
	}, layer)
}
