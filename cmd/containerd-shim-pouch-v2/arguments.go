package main

import (
	"fmt"
	"strings"
)

const usage = `usage: containerd-shim-pouch-v2 [--state FOLDER] [--debug] [--version]
  --state FOLDER  state folder of the node, on tmpfs (/run/cri-pouch)
  --debug         log every call
  --version       print the version and end`

// arguments are those of the command line. Package flag would be 33 KB more of a program
// that is executed again for each process in a container.
type arguments struct {
	state          string
	debug, version bool
}

// parseArguments takes --name, --name=value and --name value, each with one dash or two.
func parseArguments(args []string) (a arguments, err error) {
	a.state = "/run/cri-pouch"
	for len(args) > 0 {
		given := args[0]
		args = args[1:]
		name, ok := strings.CutPrefix(given, "-")
		name, value, hasValue := strings.Cut(strings.TrimPrefix(name, "-"), "=")
		switch {
		case ok && name == "state" && !hasValue && len(args) > 0:
			a.state, args = args[0], args[1:]
		case ok && name == "state" && hasValue:
			a.state = value
		case ok && name == "debug" && !hasValue:
			a.debug = true
		case ok && name == "version" && !hasValue:
			a.version = true
		default:
			return a, fmt.Errorf("argument %q is not known, or lacks its value\n%s", given, usage)
		}
	}
	return a, nil
}
