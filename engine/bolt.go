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

// openBolt opens or makes the database at path and reads all of it once, so that damage shows here, as an error that
// names the file, and not as a panic in the middle of work.
func openBolt(path string) (db *bolt.DB, err error) {
	if err := checkSize(path); err != nil {
		return nil, err
	}
	defer func() {
		if r := recover(); r != nil {
			db, err = nil, damaged(path, fmt.Errorf("%v", r))
		}
	}()
	// A file that is shorter than its pages say is a fault of the mapping; make it a panic of this goroutine.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	db, err = bolt.Open(path, 0o600, boltOptions())
	switch {
	case err == nil:
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("database %s is in use by another process: stop that one or choose another root: %w", path, errdefs.ErrFailedPrecondition)
	case isOSError(err):
		return nil, fmt.Errorf("open database %s: %w", path, err)
	default:
		return nil, damaged(path, err)
	}
	if err := readAll(db); err != nil {
		_ = db.Close()
		return nil, damaged(path, err)
	}
	return db, nil
}

// isOSError says whether the system refused (no space, no permission), as opposed to content that is no database.
func isOSError(err error) bool {
	var pe *fs.PathError
	var errno syscall.Errno
	return errors.As(err, &pe) || errors.As(err, &errno)
}

// checkSize refuses an existing file that is too short to be a database: bolt would take an empty one for new, and its
// records would be gone without a word.
func checkSize(path string) error {
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open database: %w", err)
	}
	if st.Size() == 0 {
		// A first start that was killed between creating and writing; there was nothing in it.
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("remove empty database: %w", err)
		}
	}
	return nil
}

// readAll visits every page that is in use.
func readAll(db *bolt.DB) error {
	return db.View(func(tx *bolt.Tx) error {
		return tx.ForEach(func(_ []byte, b *bolt.Bucket) error { return readBucket(b) })
	})
}

func readBucket(b *bolt.Bucket) error {
	return b.ForEach(func(k, v []byte) error {
		if v != nil {
			return nil
		}
		sub := b.Bucket(k)
		if sub == nil {
			return fmt.Errorf("bucket %q cannot be read", k)
		}
		return readBucket(sub)
	})
}

func damaged(path string, cause error) error {
	return fmt.Errorf("database %s is damaged (%w): drain this node, move the folder that holds it away as a whole and start again; images are then pulled anew",
		path, errors.Join(errdefs.ErrDataLoss, cause))
}
