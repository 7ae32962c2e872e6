package boundlog

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// crashPath names the log of the process that crashes: this test's own program, run again.
const crashPath = "BOUNDLOG_TEST_CRASH"

func TestCrashTextIsInTheNewestPartAfterRotations(t *testing.T) {
	if path := os.Getenv(crashPath); path != "" {
		crashAfterRotations(t, path)
	}
	path := filepath.Join(t.TempDir(), "log")
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), crashPath+"="+path)
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Fatalf("the process did not crash:\n%s", out)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"panic: the last words", "goroutine ", "stderr_test.go"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the newest part of the log lacks %q:\n%s\nthe process itself said:\n%s", want, text, out)
		}
	}
	if _, err := os.Stat(path + ".1"); err != nil {
		t.Errorf("the log was not rotated: %v", err)
	}
}

// crashAfterRotations ends the process by a panic that nothing catches.
func crashAfterRotations(t *testing.T, path string) {
	f, err := Open(path, 1000)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.CatchStderr(); err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		if _, err := fmt.Fprintf(f, "entry %d of a log that is rotated several times\n", i); err != nil {
			t.Fatal(err)
		}
	}
	go panic("the last words")
	select {}
}
