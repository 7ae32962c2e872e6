package server

import (
	"time"

	"github.com/cri-pouch/cri-pouch/hooks"
)

// hookRules gives the room of hooks what the administrator has settled. The configuration has been checked.
func (c Config) hookRules() hooks.Rules {
	grants, _ := hooks.ParseGrants(c.Hooks.Grants)
	return hooks.Rules{MaxTimeout: time.Duration(c.Hooks.MaxTimeout), Grants: grants}
}
