// Package hookrun is what the daemon and the shim tell each other of a container's hooks. The daemon writes the plan into
// the container's bundle when it creates the container; the shim runs it and writes the results beside it, so that the
// daemon's death changes nothing. Both files are on tmpfs: they cannot outlive a boot.
package hookrun

// The names inside a bundle.
const (
	Dir         = "hooks"        // the folder
	PlanFile    = "plan.json"    // Plan
	ResultsFile = "results.json" // []Result
	EndFile     = "end.json"     // End
)

// Launcher is where a container that has hooks sees pouch-init, read-only. Every hook is run by it: it takes over what the
// hook's command leaves behind, ends and reaps it, so that no zombie reaches the container's program.
const Launcher = "/run/.pouch/hook"
