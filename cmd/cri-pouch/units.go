package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cri-pouch/cri-pouch/cmd/cri-pouch/client"
	"github.com/cri-pouch/cri-pouch/cmd/cri-pouch/table"
	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
)

// units prints what runs inside of a rich container. What the daemon could not find out is the error, after all the rest.
func (a *app) units(ctx context.Context, ref string, all bool) error {
	return a.call(ctx, func(c *client.Client) error {
		container, err := c.Container(ctx, ref)
		if err != nil {
			return err
		}
		resp, err := c.Pouch.Units(ctx, &pouchv1.UnitsRequest{ContainerId: container.GetId()})
		if err != nil {
			return err
		}
		if !all {
			resp.Units = slices.DeleteFunc(resp.Units, idle)
		}
		if err := a.printUnits(resp); err != nil {
			return err
		}
		if p := resp.GetProblem(); p != "" {
			return errors.New("the services are not known: " + table.Clean(p))
		}
		return nil
	})
}

// idle says whether a unit is of no interest: it does not run, did not fail, and nobody has named it.
func idle(u *pouchv1.Unit) bool {
	return u.GetActive() == "inactive" && len(roles(u)) == 0
}

func (a *app) printUnits(resp *pouchv1.UnitsResponse) error {
	if a.output != "table" {
		return a.print(listing{message: resp, ids: append(unitNames(resp), pidsOf(resp)...)})
	}
	if len(resp.GetUnits()) > 0 {
		if err := a.print(unitListing(resp)); err != nil {
			return err
		}
	}
	if len(resp.GetProcesses()) > 0 {
		if len(resp.GetUnits()) > 0 {
			if _, err := fmt.Fprintln(a.out); err != nil {
				return err
			}
		}
		if err := a.print(processListing(resp)); err != nil {
			return err
		}
	}
	for _, more := range []struct {
		n    uint32
		what string
	}{{resp.GetUnitsOmitted(), "units"}, {resp.GetProcessesOmitted(), "processes"}} {
		if more.n > 0 {
			if _, err := fmt.Fprintf(a.err, "cri-pouch: %d more %s are not listed\n", more.n, more.what); err != nil {
				return err
			}
		}
	}
	return nil
}

func unitNames(resp *pouchv1.UnitsResponse) (names []string) {
	for _, u := range resp.GetUnits() {
		names = append(names, u.GetName())
	}
	return names
}

func pidsOf(resp *pouchv1.UnitsResponse) (pids []string) {
	for _, p := range resp.GetProcesses() {
		pids = append(pids, fmt.Sprint(p.GetPid()))
	}
	return pids
}

func unitListing(resp *pouchv1.UnitsResponse) listing {
	l := listing{header: []string{"UNIT", "LOAD", "ACTIVE", "SUB", "PID", "RESTARTS", "ROLE"}}
	for _, u := range resp.GetUnits() {
		pid, restarts := none, none
		if u.GetMainPid() > 0 {
			pid = fmt.Sprint(u.GetMainPid())
		}
		if u.Restarts != nil {
			restarts = fmt.Sprint(u.GetRestarts())
		}
		sub := orNone(u.GetSub())
		if app := resp.GetApplication(); u.GetApplication() && app.ExitCode != nil && app.GetPid() == 0 {
			sub += fmt.Sprintf(" (%d)", app.GetExitCode())
		}
		l.rows = append(l.rows, []string{
			u.GetName(), orNone(u.GetLoad()), orNone(u.GetActive()), sub, pid, restarts, orNone(strings.Join(roles(u), ", ")),
		})
	}
	return l
}

// roles says what a unit is for cri-pouch.
func roles(u *pouchv1.Unit) (out []string) {
	for _, role := range []struct {
		is   bool
		name string
	}{
		{u.GetApplication(), "application"}, {u.GetBrought(), "of the pod"}, {u.GetComponent() != "", "component " + u.GetComponent()},
		{u.GetWatched(), "watched"}, {u.GetHasFailed() && u.GetActive() != "failed", "has failed"},
	} {
		if role.is {
			out = append(out, role.name)
		}
	}
	return out
}

func processListing(resp *pouchv1.UnitsResponse) listing {
	l := listing{header: []string{"PID", "PARENT", "STATE", "ROLE", "COMMAND"}}
	for _, p := range resp.GetProcesses() {
		role := none
		switch {
		case p.GetPid() == 1:
			role = "init"
		case p.GetApplication():
			role = "application"
		}
		l.rows = append(l.rows, []string{fmt.Sprint(p.GetPid()), fmt.Sprint(p.GetParentPid()), p.GetState(), role, p.GetCommand()})
	}
	return l
}
