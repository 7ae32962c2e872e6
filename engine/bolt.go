package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// lockWait is how long the lock of a database is waited for: a predecessor may be about to end.
const lockWait = 3 * time.Second

// boltOptions are those of both databases: commits are synced, the free list is rebuilt at start instead.
func boltOptions() *bolt.Options {
	o := *bolt.DefaultOptions
	o.NoFreelistSync, o.NoStatistics, o.Timeout = true, true, lockWait
	return &o
}

// openBolt opens or makes the database at path. An existing one is read as a whole first, so that damage shows here, as
// an error that names the file, and not as a panic in the middle of work.
func openBolt(path string) (db *bolt.DB, err error) {
	if err := checkBolt(path); err != nil {
		return nil, err
	}
	err = guard(path, func() error {
		db, err = bolt.Open(path, 0o600, boltOptions())
		return err
	})
	if err != nil {
		return nil, err
	}
	return db, nil
}

// checkBolt looks at all pages of the database before bbolt does.
func checkBolt(path string) error {
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open database: %w", err)
	}
	if st.Size() == 0 { // a first start that was killed between creating and writing; bolt makes it anew
		return nil
	}
	return guard(path, func() error { return checkPages(path) })
}

// guard gives the failures of fn on a database their words, panics and faults of the mapping (a file that is shorter
// than its pages say) among them.
func guard(path string, fn func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = damaged(path, fmt.Errorf("%v", r))
		}
	}()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	err = fn()
	switch {
	case err == nil:
		return nil
	case errors.Is(err, bolterrors.ErrTimeout):
		return fmt.Errorf("database %s is in use by another process: stop that one or choose another root: %w", path, errdefs.ErrFailedPrecondition)
	case isOSError(err):
		return fmt.Errorf("open database %s: %w", path, err)
	}
	return damaged(path, err)
}

// isOSError says whether the system refused (no space, no permission), as opposed to content that is no database.
func isOSError(err error) bool {
	var pe *fs.PathError
	var errno syscall.Errno
	return errors.As(err, &pe) || errors.As(err, &errno)
}

func damaged(path string, cause error) error {
	return fmt.Errorf("database %s is damaged (%w): drain this node, move the folder that holds it away as a whole and start again; images are then pulled anew",
		path, errors.Join(errdefs.ErrDataLoss, cause))
}
