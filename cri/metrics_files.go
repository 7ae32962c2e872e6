package cri

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// openFilesMax bounds how many descriptors of one container are looked at: it may have as many as it likes.
const openFilesMax = 1 << 16

// openFiles are the descriptors that a container's processes have open.
type openFiles struct{ all, sockets uint64 }

// countOpenFiles looks into /proc. Who ends meanwhile has none.
func (s *Service) countOpenFiles(ctx context.Context, id string) openFiles {
	var n openFiles
	pids, err := s.Runtime.Pids(ctx, id)
	if err != nil {
		return n
	}
	for _, pid := range pids {
		dir := filepath.Join("/proc", strconv.FormatUint(uint64(pid), 10), "fd")
		d, err := os.Open(dir)
		if err != nil {
			continue
		}
		names, _ := d.Readdirnames(openFilesMax - int(n.all) + 1)
		d.Close()
		for _, name := range names {
			if n.all == openFilesMax {
				return n
			}
			n.all++
			if target, err := os.Readlink(filepath.Join(dir, name)); err == nil && strings.HasPrefix(target, "socket:") {
				n.sockets++
			}
		}
	}
	return n
}
