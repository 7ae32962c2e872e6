package kubelet

import (
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/cri-pouch/cri-pouch/integration/lab"
)

// Images of the node's registry: /version holds their number.
const (
	app1 = lab.Domain + "/app:1"
	app2 = lab.Domain + "/app:2"
)

func (n *node) pushImages() error {
	for version := range 2 {
		img, err := lab.BusyboxImage(fmt.Sprint(version+1), appConfig)
		if err != nil {
			return err
		}
		if err := n.Lab.Images.Push(fmt.Sprintf("app:%d", version+1), img); err != nil {
			return err
		}
	}
	return nil
}

// appConfig makes a container end at once when it is asked to: a shell as process 1 ignores SIGTERM.
func appConfig(c *v1.ConfigFile) { c.Config.StopSignal = "SIGKILL" }
