package richrun

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// ReadRecord reads the record in a bundle. os.ErrNotExist: the container has no launcher.
func ReadRecord(bundle string) (Record, error) {
	f, err := openRecord(bundle)
	if err != nil {
		return Record{}, err
	}
	defer f.Close()
	return readRecord(f, bundle)
}

// ReadLiveRecord is ReadRecord, and says whether the launcher has ended without a last line: somebody has killed it.
func ReadLiveRecord(bundle string) (r Record, lost bool, err error) {
	f, err := openRecord(bundle)
	if err != nil {
		return Record{}, false, err
	}
	defer f.Close()
	r, err = readRecord(f, bundle)
	if err != nil || r.Done || !r.Begun || held(f) {
		return r, false, err
	}
	r, err = readRecord(f, bundle) // its last line may have come since, and the lock gone after it
	return r, err == nil && !r.Done, err
}

// openRecord refuses what root in the container may have put in the record's place.
func openRecord(bundle string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(bundle, Dir, RecordFile), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("record of %s is no plain file: %w", bundle, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

func readRecord(f *os.File, bundle string) (Record, error) {
	text, err := io.ReadAll(io.NewSectionReader(f, 0, RecordMax))
	if err != nil {
		return Record{}, fmt.Errorf("read record of %s: %w", bundle, err)
	}
	return ParseRecord(text), nil
}

// held says whether a launcher has the record locked (hold_record of init/record.h). What cannot be found out is so.
func held(f *os.File) bool {
	lock := unix.Flock_t{Type: unix.F_RDLCK}
	err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lock)
	return err != nil || lock.Type != unix.F_UNLCK
}
