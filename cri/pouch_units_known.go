package cri

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
	"github.com/cri-pouch/cri-pouch/internal/richrun"
	"github.com/cri-pouch/cri-pouch/richcontainer"
)

// appName is what the application is called where the init has no units.
const appName = "application"

// recordedUnits gives what is known of units without asking the init: the application, what was brought in, what is watched.
func recordedUnits(plan richrun.Plan, record richrun.Record, a *pouchv1.Application) []*pouchv1.Unit {
	app := &pouchv1.Unit{Name: appName, Application: true, MainPid: a.Pid, Restarts: proto.Uint32(a.Restarts), Sub: a.State}
	if plan.Init == richrun.InitSystemd {
		app.Name = richcontainer.AppUnit()
	}
	switch {
	case a.State == "running":
		app.Active = "active"
	case a.State == "waiting", a.State == "restarting":
		app.Active = "activating"
	case a.State == "failed", a.GetExitCode() != 0:
		app.Active, app.HasFailed = "failed", true
	default:
		app.Active = "inactive"
	}
	units := []*pouchv1.Unit{app}
	add := func(u *pouchv1.Unit) {
		u.Watched, u.HasFailed = slices.Contains(plan.WatchUnits, u.Name), slices.Contains(record.Units, u.Name)
		if u.HasFailed {
			u.Active = "failed"
		}
		units = append(units, u)
	}
	for _, b := range plan.Brought {
		if !strings.Contains(b.Unit, "@.") { // a template runs as its instances only
			add(&pouchv1.Unit{Name: b.Unit, Brought: b.Component == "", Component: b.Component, Script: b.Script})
		}
	}
	for _, name := range plan.WatchUnits {
		if !slices.ContainsFunc(units, func(u *pouchv1.Unit) bool { return u.Name == name }) {
			add(&pouchv1.Unit{Name: name})
		}
	}
	return units
}

// withStates adds what systemd says: to the units that are known, which stay first, and those that it alone knows, by name. A
// unit that it does not list has no state.
func withStates(known []*pouchv1.Unit, states []richcontainer.UnitState) []*pouchv1.Unit {
	first := len(known)
	byName := map[string]*pouchv1.Unit{}
	for _, u := range known {
		if !u.Application {
			u.Active = ""
		}
		byName[u.Name] = u
	}
	for _, state := range states {
		u := byName[state.Name]
		if u == nil {
			u = &pouchv1.Unit{Name: state.Name}
			known = append(known, u)
		}
		u.Load, u.Active, u.Sub = state.Load, state.Active, state.Sub
		if !u.Application { // the launcher's pid, which is never restarted
			u.MainPid, u.Restarts = state.MainPID, state.Restarts
		}
	}
	slices.SortFunc(known[first:], func(a, b *pouchv1.Unit) int { return strings.Compare(a.Name, b.Name) })
	return known
}
