package rich

import (
	"testing"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// What must hold whatever the init is. The tests of one machine share a node: its image is unpacked once.
func TestEveryInit(t *testing.T) {
	tests := []struct {
		name string
		test func(t *testing.T, n *harness.Node, m machine, ref string)
	}{
		{"the application is run as asked", theApplicationIsRunAsAsked},
		{"the application of another user", theApplicationOfAnotherUser},
		{"streams stay apart", streamsStayApart},
		{"standard input", standardInput},
		{"a terminal", aTerminal},
		{"clients attach to the application", clientsAttachToTheApplication},
		{"clients attach to the terminal", clientsAttachToTheTerminal},
		{"the exit code is the application's", theExitCodeIsTheApplications},
		{"restarts inside", restartsInside},
		{"the stop signal is the application's", theStopSignalIsTheApplications},
		{"the deaf are killed", theDeafAreKilled},
		{"a stop before the application", aStopBeforeTheApplication},
		{"what the kubelet mounts is seen", whatTheKubeletMountsIsSeen},
		{"the log is rotated", theLogIsRotated},
		{"a read-only root filesystem", aReadOnlyRootFilesystem},
		{"a privileged one cannot reboot", aPrivilegedOneCannotReboot},
		{"it is removed while it runs", itIsRemovedWhileItRuns},
		{"poweroff and reboot inside end the container", poweroffAndRebootInsideEndTheContainer},
		{"limits hold for the whole tree", limitsHoldForTheWholeTree},
		{"figures and limits are the whole tree's", figuresAndLimitsAreTheWholeTrees},
		{"a fork bomb hits the pod's bound", aForkBombHitsThePodsBound},
		{"probes of the kubelet work", probesOfTheKubeletWork},
		{"pod security holds", podSecurityHolds},
		{"the image's files are left alone", theImagesFilesAreLeftAlone},
		{"the record is not trusted", theRecordIsNotTrusted},
		{"a rich container is replaced in place", aRichContainerIsReplacedInPlace},
		{"hooks are the application's", hooksAreTheApplications},
		{"the daemon's death is not noticed inside", theDaemonsDeathIsNotNoticedInside},
		{"the daemon dies during a stop", theDaemonDiesDuringAStop},
	}
	each(t, machines, func(t *testing.T, n *harness.Node, m machine, ref string) {
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) { test.test(t, n, m, ref) })
		}
	})
}

// An image that has nothing of an init, or only the small one.
func TestTheApplicationUnderDumbInit(t *testing.T) {
	each(t, []machine{{"dumb-init", "dumb-init"}, {"static", "dumb-init"}}, theApplicationIsRunAsAsked)
}
