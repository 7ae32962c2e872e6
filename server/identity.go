package server

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"

	"github.com/cri-pouch/cri-pouch/cri/model"
	"github.com/cri-pouch/cri-pouch/internal/atomicfile"
)

const (
	// rootFile, in the root, tells which root it is and what wrote its records.
	rootFile = "root.json"
	// boundFile, in the state folder, tells which root what runs there belongs to.
	boundFile = "root.json"
	// maxIdentity bounds such a file, in bytes.
	maxIdentity = 64 << 10
)

// identity is what both files hold.
type identity struct {
	ID string `json:"id"`
	// Root is its path, for people; in the state folder only.
	Root string `json:"root,omitempty"`
	// Schema is the version of the records in it (model.Schema), and WrittenBy the program that wrote the first of them.
	Schema    int    `json:"schema,omitempty"`
	WrittenBy string `json:"writtenBy,omitempty"`
}

// bind makes sure that root and state belong together and that this program can read the records, before anything is
// touched. Containers that run in the state folder have their records in the root: with another root each would be unknown.
// errdefs.ErrFailedPrecondition says what does not fit.
func bind(c Config, version string) error {
	rootPath, boundPath := filepath.Join(c.Root, rootFile), filepath.Join(c.State, boundFile)
	root, err := readIdentity(rootPath)
	if err != nil {
		return err
	}
	bound, err := readIdentity(boundPath)
	if err != nil {
		return err
	}
	if root.Schema > model.Schema {
		return fmt.Errorf("root %s was written by cri-pouch %s, whose records (version %d) this program, %s, cannot read (up to version %d): install that version again: %w",
			c.Root, root.WrittenBy, root.Schema, version, model.Schema, errdefs.ErrFailedPrecondition)
	}
	if bound.ID != "" && bound.ID != root.ID {
		return fmt.Errorf("state folder %s belongs to root %s, not to %s: what runs there has its records in that root. Give --root %s; or, if that root is lost, remove %s, and containers are taken up as far as the state folder tells of them: %w",
			c.State, bound.Root, c.Root, bound.Root, boundPath, errdefs.ErrFailedPrecondition)
	}
	if root.ID == "" {
		var b [16]byte
		if _, err := rand.Read(b[:]); err != nil {
			return err
		}
		root.ID = hex.EncodeToString(b[:])
	}
	if root.Schema != model.Schema {
		root.Schema, root.WrittenBy = model.Schema, version
		if err := writeIdentity(rootPath, root); err != nil {
			return err
		}
	}
	if bound.ID == root.ID && bound.Root == c.Root {
		return nil
	}
	return writeIdentity(boundPath, identity{ID: root.ID, Root: c.Root})
}

// readIdentity gives the zero identity where there is no file.
func readIdentity(path string) (id identity, err error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return id, nil
	}
	if err == nil && (!info.Mode().IsRegular() || info.Size() > maxIdentity) {
		err = errors.New("it is no plain file of that size")
	}
	var b []byte
	if err == nil {
		b, err = os.ReadFile(path)
	}
	if err == nil {
		err = json.Unmarshal(b, &id)
	}
	if err == nil && id.ID == "" {
		err = errors.New("it has no id")
	}
	if err != nil {
		return id, fmt.Errorf("%s, which tells the root that the folder belongs to, cannot be read: restore it, or remove it if you are sure that root and state belong together: %w: %w",
			path, err, errdefs.ErrFailedPrecondition)
	}
	return id, nil
}

// writeIdentity replaces the file; it outlives a power cut.
func writeIdentity(path string, id identity) error {
	b, err := json.Marshal(id)
	if err != nil {
		return err
	}
	return atomicfile.Write(path, append(b, '\n'), atomicfile.Durable())
}
