package richcontainer

import (
	"bytes"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// UnitState is what systemd says of one of its units.
type UnitState struct {
	Name              string
	Load, Active, Sub string // words of systemd: "loaded", "active", "running"
	MainPID           int32  // in the container; 0: none
	Restarts          *uint32
}

// unitStates is how many units are told of.
const unitStates = 1000

// UnitStatesCommand gives the command line that makes systemctl print the services that systemd has loaded, and those of the
// named units that are no services, as ParseUnitStates reads it. `show` is made for programs (systemctl(1)): its lines are the
// same in all versions.
func UnitStatesCommand(units []string) []string {
	argv := []string{"systemctl", "show", "--no-pager", "--all", "--type=service", "--property=Id,LoadState,ActiveState,SubState,MainPID,NRestarts", "--", "*.service"}
	for _, u := range units {
		if !strings.HasSuffix(u, ".service") && !strings.Contains(u, "@.") && checkUnitName(u) == nil && !slices.Contains(argv, u) {
			argv = append(argv, u)
		}
	}
	return argv
}

// maxShownName bounds the name of a unit (systemd.unit(5)), in bytes.
const maxShownName = 255

// stateWord is the form of all of systemd's states.
var stateWord = regexp.MustCompile(`^[a-z][a-z0-9-]{0,39}$`)

// ParseUnitStates reads the output of UnitStatesCommand. Whatever is not of the form that systemctl gives it is left out, for the
// output is the container's; omitted is how many units were: because their names are impossible or twice there, or there
// are more than anybody reads.
func ParseUnitStates(output []byte) (states []UnitState, omitted int) {
	seen := map[string]bool{}
	for len(output) > 0 {
		var block []byte
		block, output, _ = bytes.Cut(output, []byte("\n\n"))
		u, ok := parseUnitState(block)
		switch {
		case !ok:
		case !unitName.MatchString(u.Name) || len(u.Name) > maxShownName || seen[u.Name] || len(states) == unitStates:
			omitted++
		default:
			seen[u.Name] = true
			states = append(states, u)
		}
	}
	return states, omitted
}

// parseUnitState reads the properties of one unit; it is none without a name.
func parseUnitState(block []byte) (u UnitState, ok bool) {
	for line := range bytes.Lines(block) {
		key, value, _ := strings.Cut(strings.TrimSuffix(string(line), "\n"), "=")
		switch key {
		case "Id":
			u.Name, ok = value, true
		case "LoadState":
			u.Load = word(value)
		case "ActiveState":
			u.Active = word(value)
		case "SubState":
			u.Sub = word(value)
		case "MainPID":
			if n, err := strconv.ParseInt(value, 10, 32); err == nil && n > 0 {
				u.MainPID = int32(n)
			}
		case "NRestarts":
			if n, err := strconv.ParseUint(value, 10, 32); err == nil {
				restarts := uint32(n)
				u.Restarts = &restarts
			}
		}
	}
	return u, ok
}

// word is a state, or nothing.
func word(value string) string {
	if stateWord.MatchString(value) {
		return value
	}
	return ""
}

// AppUnit is the application's service in systemd.
func AppUnit() string { return appUnit }
