package richrun

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ReadRecord reads the record in a bundle. os.ErrNotExist: the container has no launcher.
func ReadRecord(bundle string) (Record, error) {
	f, err := os.OpenFile(filepath.Join(bundle, Dir, RecordFile), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return Record{}, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, RecordMax))
	if err != nil {
		return Record{}, fmt.Errorf("read record of %s: %w", bundle, err)
	}
	return ParseRecord(text), nil
}
