package spec

import (
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/cri/model"
)

// maxAccounts bounds /etc/passwd and /etc/group of an image, in bytes.
const maxAccounts = 4 << 20

// passwdEntry and groupEntry are lines of /etc/passwd (passwd(5)) and /etc/group (group(5)).
type passwdEntry struct {
	name     string
	uid, gid int64
}

type groupEntry struct {
	name    string
	gid     int64
	members []string
}

// resolveUser finds out as whom the container's first process runs: by the request's user ID or name, else by the image's
// USER, else root. Names are looked up in the image's own files.
func resolveUser(in Input) (model.User, error) {
	sec := in.Config.Security
	userPart, groupPart := "", ""
	switch {
	case sec.RunAsUser != nil:
		userPart = strconv.FormatInt(*sec.RunAsUser, 10)
	case sec.RunAsUsername != "":
		userPart = sec.RunAsUsername
	default:
		userPart, groupPart, _ = strings.Cut(in.Image.Config.User, ":")
	}
	entries, err := readPasswd(in.Rootfs)
	if err != nil {
		return model.User{}, err
	}
	entry, err := findUser(entries, userPart, sec.RunAsUsername != "")
	if err != nil {
		return model.User{}, err
	}
	groups, err := readGroups(in.Rootfs)
	if err != nil {
		return model.User{}, err
	}
	who := model.User{UID: entry.uid, GID: entry.gid}
	switch {
	case sec.RunAsGroup != nil:
		who.GID = *sec.RunAsGroup
	case groupPart != "":
		if who.GID, err = findGroup(groups, groupPart); err != nil {
			return model.User{}, err
		}
	}
	// The primary group stands in the list too: a process that drops it by setgid would otherwise lose what a file denies
	// to that group (CVE-2022-2995).
	who.SupplementalGroups = []int64{who.GID}
	if !sec.StrictGroups {
		for _, g := range groups {
			if entry.name != "" && slices.Contains(g.members, entry.name) {
				who.SupplementalGroups = append(who.SupplementalGroups, g.gid)
			}
		}
	}
	who.SupplementalGroups = unique(append(who.SupplementalGroups, sec.SupplementalGroups...))
	return who, checkIDs(who)
}

func unique(in []int64) []int64 {
	var out []int64
	for _, g := range in {
		if !slices.Contains(out, g) {
			out = append(out, g)
		}
	}
	return out
}

// checkIDs is the last guard before numbers become 32 bits wide (CVE-2024-40635).
func checkIDs(u model.User) error {
	for _, n := range append([]int64{u.UID, u.GID}, u.SupplementalGroups...) {
		if n < 0 || n >= math.MaxUint32 {
			return fmt.Errorf("user or group number %d is not between 0 and %d: %w", n, uint32(math.MaxUint32-1), errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// findUser looks up a number or a name; empty is root. A number needs no entry, unless mustExist asks for a name.
func findUser(entries []passwdEntry, who string, mustExist bool) (passwdEntry, error) {
	if who == "" {
		who = "0"
	}
	if n, ok, err := number(who); err != nil {
		return passwdEntry{}, fmt.Errorf("user %q: %w", who, err)
	} else if ok && !mustExist {
		for _, e := range entries {
			if e.uid == n {
				return e, nil
			}
		}
		return passwdEntry{uid: n}, nil
	}
	for _, e := range entries {
		if e.name == who {
			return e, nil
		}
	}
	return passwdEntry{}, fmt.Errorf("user %q is not in the image's /etc/passwd: %w", who, errdefs.ErrInvalidArgument)
}

func findGroup(groups []groupEntry, group string) (int64, error) {
	if n, ok, err := number(group); err != nil {
		return 0, fmt.Errorf("group %q: %w", group, err)
	} else if ok {
		return n, nil
	}
	for _, g := range groups {
		if g.name == group {
			return g.gid, nil
		}
	}
	return 0, fmt.Errorf("group %q is not in the image's /etc/group: %w", group, errdefs.ErrInvalidArgument)
}

// number reads a user or group number. Digits that are none (beyond 32 bits, or the kernel's "unchanged") are an error and
// never a name.
func number(s string) (n int64, ok bool, err error) {
	if strings.Trim(s, "0123456789") != "" {
		return 0, false, nil
	}
	n, err = strconv.ParseInt(s, 10, 64)
	if err != nil || n >= math.MaxUint32 {
		return 0, false, fmt.Errorf("the number is above %d: %w", uint32(math.MaxUint32-1), errdefs.ErrInvalidArgument)
	}
	return n, true, nil
}

func readPasswd(root string) ([]passwdEntry, error) {
	var out []passwdEntry
	err := eachLine(root, "etc/passwd", func(f []string) {
		if len(f) < 4 || f[0] == "" {
			return
		}
		uid, ok1, _ := number(f[2])
		gid, ok2, _ := number(f[3])
		if ok1 && ok2 && f[2] != "" && f[3] != "" {
			out = append(out, passwdEntry{name: f[0], uid: uid, gid: gid})
		}
	})
	return out, err
}

func readGroups(root string) ([]groupEntry, error) {
	var out []groupEntry
	err := eachLine(root, "etc/group", func(f []string) {
		if len(f) < 3 || f[0] == "" {
			return
		}
		gid, ok, _ := number(f[2])
		if !ok || f[2] == "" {
			return
		}
		g := groupEntry{name: f[0], gid: gid}
		if len(f) > 3 {
			g.members = strings.Split(f[3], ",")
		}
		out = append(out, g)
	})
	return out, err
}

// eachLine calls fn with the fields of each line of a file of the image; an absent file has none.
func eachLine(root, name string, fn func(fields []string)) error {
	b, err := readInRoot(root, name)
	if err != nil {
		return fmt.Errorf("read /%s of the image, which has to be a plain file: %w", name, err)
	}
	for line := range strings.Lines(string(b)) {
		fn(strings.Split(strings.TrimSpace(line), ":"))
	}
	return nil
}

// readInRoot reads a file of the image. The kernel resolves links as if root were "/", so that none leads out
// (openat2(2)); what is not a plain file of bounded size is refused, and an absent file is empty.
func readInRoot(root, name string) ([]byte, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open root filesystem %s: %w", root, err)
	}
	defer unix.Close(dir)
	how := &unix.OpenHow{
		// Not blocking, for the file may be a FIFO.
		Flags:   unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOCTTY,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	fd, err := unix.Openat2(dir, name, how)
	for range 128 { // a rename elsewhere makes the kernel ask for another try
		if err != unix.EAGAIN && err != unix.EINTR {
			break
		}
		fd, err = unix.Openat2(dir, name, how)
	}
	if err == unix.ENOENT || err == unix.ENOTDIR {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	return readPlain(f, maxAccounts)
}

// readPlain reads an open file that must be a plain one of at most limit bytes.
func readPlain(f *os.File, limit int64) ([]byte, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("it is not a plain file: %w", errdefs.ErrInvalidArgument)
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("it has more than %d bytes: %w", limit, errdefs.ErrInvalidArgument)
	}
	return b, nil
}
