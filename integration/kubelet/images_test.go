package kubelet

import (
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/cri-pouch/cri-pouch/integration/lab"
)

// Images of the node's registry; /version tells them apart. app1Again is app1 by another tag.
const (
	app1      = lab.Domain + "/app:1"
	app1Again = lab.Domain + "/app:again"
	app2      = lab.Domain + "/app:2"
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
	return nil
}

// appConfig makes a container end at once when it is asked to: a shell as process 1 ignores SIGTERM.
func appConfig(c *v1.ConfigFile) { c.Config.StopSignal = "SIGKILL" }
