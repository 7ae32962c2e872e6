// Package richrun is what the daemon, the shim and pouch-init's launcher agree on about a rich container: the folder that
// all three see, the file that tells the launcher what to run, the record that it writes, and what the shim must know.
package richrun

// The folder is in the bundle on the host and at Folder, read-only, in the container. All of its files are made by the
// daemon before the start; FIFOs can be written to on a read-only mount, the record is mounted once more, writable.
const (
	Folder = "/run/.pouch" // in the container
	Dir    = "rich"        // in the bundle

	AppFile     = "app"     // what the launcher runs
	RecordFile  = "record"  // what it did
	ControlFIFO = "control" // what it is asked to do
	StdinFIFO   = "stdin"
	StdoutFIFO  = "stdout"
	StderrFIFO  = "stderr"
	LaunchFile  = "launch" // pouch-init itself, as launcher
	InitFile    = "init"   // pouch-init itself, as pid 1
	// TerminalLink leads to the application's terminal, where it has one. The shim makes it.
	TerminalLink = "terminal"

	// PlanFile is in the bundle itself: root inside can get at everything in the folder.
	PlanFile = "rich-plan.json"
	// InitLog is in the bundle itself: what pid 1 prints, with its older part in InitLog.1.
	InitLog = "init.log"
)

// InitLogMax bounds each of the two parts of InitLog, in bytes.
const InitLogMax = 256 << 10
