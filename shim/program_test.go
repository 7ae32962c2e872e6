package shim

import (
	"os"
	"os/exec"
	"testing"
)

// A program that cannot be started is named as it is without tracing, and one that ends at once has its own exit code.
func TestAProgramWithAScoreOfItsOwn(t *testing.T) {
	own, err := oomScoreAdj()
	if err != nil {
		t.Fatal(err)
	}
	if own != 0 {
		t.Skipf("this test has an oom_score_adj of %d, and needs one that it can have again", own)
	}
	set := func(adj string) {
		t.Helper()
		if err := os.WriteFile("/proc/self/oom_score_adj", []byte(adj), 0); err != nil {
			t.Fatal(err)
		}
	}
	set("400")
	defer set("0")
	if err := startProgram(exec.Command("/no/such/program")); err == nil || err.Error() != "fork/exec /no/such/program: no such file or directory" {
		t.Errorf("a program that is not there: %v", err)
	}
	for range 20 {
		cmd := exec.Command("/bin/sh", "-c", "read adj </proc/self/oom_score_adj; exit $((7 + adj))")
		if err := startProgram(cmd); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 7 {
			t.Fatalf("it ended with %v", err)
		}
	}
}
