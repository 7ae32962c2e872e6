package snapshot

import (
	"errors"

	"golang.org/x/sys/unix"
)

// openTries bounds how often openat2 is asked again.
const openTries = 1000

// openat2 is openat2(2), asked again while a rename or mount anywhere on the machine keeps the kernel from telling whether ".."
// has stayed inside of the root (EAGAIN).
func openat2(dir int, name string, how *unix.OpenHow) (fd int, err error) {
	for range openTries {
		if fd, err = unix.Openat2(dir, name, how); !errors.Is(err, unix.EAGAIN) {
			break
		}
	}
	return fd, err
}
