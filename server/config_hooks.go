package server

import (
	"fmt"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"github.com/cri-pouch/cri-pouch/hooks"
)

func checkHooksDirs(dirs []string) error {
	for i, d := range dirs {
		if err := checkPath(d); err != nil {
			return err
		}
		if slices.Contains(dirs[:i], d) {
			return fmt.Errorf("%q stands there twice", d)
		}
	}
	return nil
}

// checkNodeTimeout refuses what the OCI specification cannot express: it counts seconds.
func checkNodeTimeout(d Duration, high time.Duration) error {
	if time.Duration(d)%time.Second != 0 {
		return fmt.Errorf("%s are no whole seconds", d)
	}
	return checkDuration(d, time.Second, high)
}

// openNodeHooks reads the files of the node's hooks and follows them.
func (c Config) openNodeHooks(log *logrus.Entry, registry prometheus.Registerer) *hooks.Node {
	return hooks.OpenNode(hooks.NodeOptions{
		Dirs: c.Hooks.Dirs, DefaultTimeout: time.Duration(c.Hooks.NodeTimeout), MaxTimeout: time.Duration(c.Hooks.NodeTimeoutMax),
		Log: log, Metrics: registry,
	})
}

// hookRules gives the room of hooks what the administrator has settled. The configuration has been checked.
func (c Config) hookRules() hooks.Rules {
	grants, _ := hooks.ParseGrants(c.Hooks.Grants)
	return hooks.Rules{MaxTimeout: time.Duration(c.Hooks.MaxTimeout), Grants: grants}
}
