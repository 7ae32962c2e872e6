package cri

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cri-pouch/cri-pouch/internal/atomicfile"
)

// A copy of each record stands in the state folder, on tmpfs: when the database has lost a record, or has it damaged, what
// runs is known all the same. The database is the truth: a copy is written after it, and removed before the record is.
// So a copy without a record is one that was lost.

// recordKind is a kind of record, and the folder of its copies.
type recordKind string

const (
	sandboxRecords   recordKind = "sandboxes"
	containerRecords recordKind = "containers"
)

// maxCopy bounds a copy that is read, in bytes. The largest records have a pod's annotations in them, a few hundred KiB.
const maxCopy = 16 << 20

func (s *Service) copiesDir(kind recordKind) string {
	return filepath.Join(s.StateDir, "records", string(kind))
}

func (s *Service) copyPath(kind recordKind, id string) string {
	return filepath.Join(s.copiesDir(kind), id+".json")
}

func (s *Service) makeCopyDirs() error {
	for _, kind := range []recordKind{sandboxRecords, containerRecords} {
		if err := os.MkdirAll(s.copiesDir(kind), 0o700); err != nil {
			return fmt.Errorf("make state folder: %w", err)
		}
	}
	return nil
}

// keepCopy writes the copy of a record. A state folder that is full costs the copy only.
func (s *Service) keepCopy(kind recordKind, id string, record []byte) {
	if err := atomicfile.Write(s.copyPath(kind, id), record); err != nil {
		s.Log.WithError(err).Warn("no copy of a record is kept, it is in the database only")
	}
}

// dropCopy removes the copy of a record that is about to be removed.
func (s *Service) dropCopy(kind recordKind, id string) error {
	if err := atomicfile.Remove(s.copyPath(kind, id)); err != nil {
		return fmt.Errorf("remove the copy of a record: %w", err)
	}
	return nil
}

// copies reads all copies of a kind, by ID. One that cannot be read is left out.
func (s *Service) copies(kind recordKind) (map[string][]byte, error) {
	entries, err := os.ReadDir(s.copiesDir(kind))
	if err != nil {
		return nil, fmt.Errorf("read the copies of records: %w", err)
	}
	all := make(map[string][]byte, len(entries))
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), ".json")
		info, err := e.Info()
		if !ok || err != nil || !info.Mode().IsRegular() || info.Size() > maxCopy {
			continue
		}
		b, err := os.ReadFile(s.copyPath(kind, id))
		if err != nil {
			return nil, fmt.Errorf("read the copies of records: %w", err)
		}
		all[id] = b
	}
	return all, nil
}
