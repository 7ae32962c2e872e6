package snapshot

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// maxEscaped is the longest escaped path that is a folder's name as it is; with a suffix it must fit NAME_MAX (255).
const maxEscaped = 180

// escapePath makes one file name of a path: its bytes other than letters, digits, '.', '_' and '-' are written as %XX. Of a
// long one the beginning is kept and a hash stands for the rest. Different paths have different names.
func escapePath(p string) string {
	var b strings.Builder
	for i := range len(p) {
		if c := p[i]; isPlain(c) && (i != 1 || c != '.') {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	s := strings.TrimPrefix(b.String(), "%2F") // all are absolute
	if len(s) <= maxEscaped {
		return s
	}
	sum := sha256.Sum256([]byte(p))
	return s[:100] + "%+" + hex.EncodeToString(sum[:16])
}

// unescapePath gives the path of an escaped name; false for one that was too long.
func unescapePath(name string) (string, bool) {
	var b strings.Builder
	b.WriteByte('/')
	for i := 0; i < len(name); i++ {
		if name[i] != '%' {
			b.WriteByte(name[i])
			continue
		}
		if i+2 >= len(name) {
			return "", false
		}
		c, err := hex.DecodeString(name[i+1 : i+3])
		if err != nil {
			return "", false
		}
		b.Write(c)
		i += 2
	}
	return b.String(), true
}

func isPlain(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-'
}

func isTemporary(name string) bool {
	return strings.HasSuffix(name, newSuffix) || strings.HasSuffix(name, goneSuffix)
}

// checkElement accepts what can be a folder of its own: a pod's UID, a container's name.
func checkElement(what, s string) error {
	if s == "" || len(s) > 253 || s[0] == '.' || strings.ContainsFunc(s, func(r rune) bool { return r > 0x7f || !isPlain(byte(r)) }) {
		return fmt.Errorf("%s %.300q may have letters, digits, '.', '_' and '-' only, not begin with '.', and have 1 to 253 of them: %w", what, s, errdefs.ErrInvalidArgument)
	}
	return nil
}

// folder is where the volumes of a container are.
func (v *Volumes) folder(pod, container string) (string, error) {
	if err := checkElement("pod UID", pod); err != nil {
		return "", err
	}
	if err := checkElement("container name", container); err != nil {
		return "", err
	}
	return filepath.Join(v.dir, pod, container), nil
}

// PlaceKind says what is at a place of a root filesystem.
type PlaceKind int

// The kinds of places.
const (
	PlaceMissing PlaceKind = iota
	PlaceFolder
	PlaceOther // a file, or a path that leads through one
)

// Place is where a path leads inside a root filesystem once all symlinks are followed.
type Place struct {
	Path string // absolute, inside the root filesystem, without symlinks
	Kind PlaceKind
}

// maxNameLength is the kernel's bound on one element of a path (NAME_MAX).
const maxNameLength = 255

// maxLoops is the number of dangling symlinks that are followed for one path, as the kernel does.
const maxLoops = 40

// Resolve follows path inside the root filesystem that is mounted at rootfs; no symlink of an image leads out of it. Where
// a part of the path is missing, the rest of it is taken as it stands. errdefs.ErrInvalidArgument: symlinks in a circle.
func (v *Volumes) Resolve(rootfs, p string) (Place, error) {
	place, f, err := openPlace(rootfs, p)
	if err != nil {
		return Place{}, err
	}
	closeIfOpen(f)
	return place, nil
}

// openPlace is Resolve and opens what is there, as O_PATH; a nil file where there is nothing.
func openPlace(rootfs, p string) (Place, *os.File, error) {
	if slices.ContainsFunc(strings.Split(p, "/"), func(s string) bool { return len(s) > maxNameLength }) {
		return Place{}, nil, fmt.Errorf("%.200s… has a name of more than %d bytes: %w", p, maxNameLength, errdefs.ErrInvalidArgument)
	}
	root, err := unix.Open(rootfs, dirOnly|unix.O_NOFOLLOW, 0)
	if err != nil {
		return Place{}, nil, fmt.Errorf("open root filesystem %s: %w", rootfs, err)
	}
	defer unix.Close(root)
	return placeIn(root, path.Join("/", p), 0)
}

func placeIn(root int, p string, loops int) (Place, *os.File, error) {
	if p == "/" {
		p = "/."
	}
	fd, err := openat2(root, p, &unix.OpenHow{Flags: pathOnly, Resolve: insideOnly})
	switch {
	case err == nil:
		return placeOf(root, fd)
	case errors.Is(err, unix.ENOTDIR):
		return Place{Path: path.Clean(p), Kind: PlaceOther}, nil, nil
	case errors.Is(err, unix.ELOOP):
		return Place{}, nil, fmt.Errorf("the symlinks at %s lead in a circle: %w", p, errdefs.ErrInvalidArgument)
	case !errors.Is(err, unix.ENOENT):
		return Place{}, nil, fmt.Errorf("open %s in the root filesystem: %w", p, err)
	}
	up, dir, err := placeIn(root, path.Dir(p), loops)
	if err != nil {
		return Place{}, nil, err
	}
	defer closeIfOpen(dir)
	missing := Place{Path: path.Join(up.Path, path.Base(p))}
	if up.Kind != PlaceFolder {
		missing.Kind = up.Kind
		return missing, nil, nil
	}
	target, err := readLinkIn(dir, path.Base(p))
	if err != nil || target == "" {
		return missing, nil, err
	}
	if loops++; loops > maxLoops {
		return Place{}, nil, fmt.Errorf("the symlinks at %s lead in a circle: %w", p, errdefs.ErrInvalidArgument)
	}
	if !path.IsAbs(target) {
		target = path.Join(up.Path, target)
	}
	return placeIn(root, path.Clean(target), loops)
}

// readLinkIn gives the target of a symlink; empty for what is none.
func readLinkIn(dir *os.File, name string) (string, error) {
	b := make([]byte, maxPathLength)
	n, err := unix.Readlinkat(int(dir.Fd()), name, b)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read symlink %s: %w", name, err)
	}
	return string(b[:n]), nil
}

// placeOf describes what is open, and keeps it so.
func placeOf(root, fd int) (_ Place, _ *os.File, err error) {
	f := os.NewFile(uintptr(fd), "place")
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return Place{}, nil, err
	}
	base, err := os.Readlink(fdPath(root))
	if err != nil {
		return Place{}, nil, err
	}
	real, err := os.Readlink(fdPath(fd))
	if err != nil {
		return Place{}, nil, err
	}
	rel, err := filepath.Rel(base, real)
	if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return Place{}, nil, fmt.Errorf("%s is outside of the root filesystem %s: %w", real, base, errdefs.ErrInternal)
	}
	kind := PlaceOther
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		kind = PlaceFolder
	}
	return Place{Path: path.Join("/", rel), Kind: kind}, f, nil
}

func closeIfOpen(f *os.File) {
	if f != nil {
		_ = f.Close()
	}
}
