package fusefs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Op is the kind of a request (include/uapi/linux/fuse.h).
type Op uint32

// The kinds that this file system knows; Any stands for all.
const (
	Any     Op = 0
	Lookup  Op = 1
	Getattr Op = 3
	Open    Op = 14
	Read    Op = 15
	Statfs  Op = 17
	Opendir Op = 27
	Readdir Op = 28
	Access  Op = 34
)

const (
	opForget      Op = 2
	opRelease     Op = 18
	opFlush       Op = 25
	opInit        Op = 26
	opReleasedir  Op = 29
	opInterrupt   Op = 36
	opBatchForget Op = 42
)

func (o Op) String() string { return fmt.Sprintf("FUSE request %d", uint32(o)) }

// Inode numbers. The root has the one that the protocol gives it.
const (
	rootNode uint64 = iota + 1
	folderNode
	fileNode
	innerFileNode
)

const headerSize = 40

// message is one request.
type message struct {
	op     Op
	unique uint64
	node   uint64
	pid    uint32
	body   []byte
}

func parse(b []byte) (message, bool) {
	if len(b) < headerSize {
		return message{}, false
	}
	n := binary.NativeEndian
	return message{
		op: Op(n.Uint32(b[4:])), unique: n.Uint64(b[8:]), node: n.Uint64(b[16:]), pid: n.Uint32(b[32:]), body: bytes.Clone(b[headerSize:]),
	}, true
}

// answered reports whether the kernel waits for an answer.
func (m message) answered() bool {
	return m.op != opForget && m.op != opBatchForget && m.op != opInterrupt
}

func (m message) name() string {
	if m.op != Lookup {
		return ""
	}
	name, _, _ := strings.Cut(string(m.body), "\x00")
	return name
}

// reply writes an answer. Its error does not matter: who asked is gone, or the connection is.
func (f *FS) reply(m message, errno int32, body []byte) {
	if !m.answered() {
		return
	}
	n := binary.NativeEndian
	b := n.AppendUint32(nil, uint32(16+len(body)))
	b = n.AppendUint32(b, uint32(errno))
	b = n.AppendUint64(b, m.unique)
	_, _ = unix.Write(int(f.dev.Fd()), append(b, body...))
}

// serve answers as a sound file system does.
func (f *FS) serve(m message) {
	n := binary.NativeEndian
	switch m.op {
	case opInit:
		f.reply(m, 0, f.initAnswer(m))
	case Lookup:
		node, ok := child(m.node, m.name())
		if !ok {
			f.reply(m, -int32(unix.ENOENT), nil)
			return
		}
		// Node, generation, how long name and attributes hold: not at all, so that everything is asked for again.
		b := n.AppendUint64(nil, node)
		b = append(b, make([]byte, 32)...)
		f.reply(m, 0, append(b, attributes(node)...))
	case Getattr:
		f.reply(m, 0, append(make([]byte, 16), attributes(m.node)...))
	case Open, Opendir:
		f.reply(m, 0, make([]byte, 16))
	case Read:
		f.reply(m, 0, part(m.body))
	case Readdir:
		f.reply(m, 0, nil)
	case Statfs:
		b := make([]byte, 80)
		n.PutUint32(b[40:], 4096) // block size
		n.PutUint32(b[44:], 255)  // longest name
		n.PutUint32(b[48:], 4096) // fragment size
		f.reply(m, 0, b)
	case Access, opRelease, opReleasedir, opFlush:
		f.reply(m, 0, nil)
	default:
		f.reply(m, -int32(unix.ENOSYS), nil)
	}
}

// part gives what a read asks for: offset and size are its second and third field.
func part(body []byte) []byte {
	if len(body) < 20 {
		return nil
	}
	from := min(binary.NativeEndian.Uint64(body[8:]), uint64(len(Content)))
	to := min(from+uint64(binary.NativeEndian.Uint32(body[16:])), uint64(len(Content)))
	return []byte(Content[from:to])
}

func child(parent uint64, name string) (uint64, bool) {
	switch {
	case parent == rootNode && name == Folder:
		return folderNode, true
	case parent == rootNode && name == File:
		return fileNode, true
	case parent == folderNode && name == File:
		return innerFileNode, true
	}
	return 0, false
}

// attributes are struct fuse_attr.
func attributes(node uint64) []byte {
	mode, size := uint32(unix.S_IFDIR|0o755), uint64(0)
	if node == fileNode || node == innerFileNode {
		mode, size = unix.S_IFREG|0o644, uint64(len(Content))
	}
	n := binary.NativeEndian
	b := n.AppendUint64(nil, node)
	b = n.AppendUint64(b, size)
	b = append(b, make([]byte, 8+3*8+3*4)...) // blocks, times
	b = n.AppendUint32(b, mode)
	b = n.AppendUint32(b, 1)             // links
	b = append(b, make([]byte, 3*4)...)  // owner, group, device
	b = n.AppendUint32(b, 4096)          // block size
	return append(b, make([]byte, 4)...) // flags
}

// Capabilities of the protocol that an answer to INIT may name.
const (
	flagInitExt  = 1 << 30        // flags2 counts
	flagAllowMap = 1 << (40 - 32) // FUSE_ALLOW_IDMAP, in flags2
	versionMajor = 7
	versionMinor = 31
	initSize     = 64
)

func (f *FS) initAnswer(message) []byte {
	b := make([]byte, initSize)
	n := binary.NativeEndian
	n.PutUint32(b[0:], versionMajor)
	n.PutUint32(b[4:], versionMinor)
	if f.o.IDMap {
		n.PutUint32(b[12:], flagInitExt)
		n.PutUint32(b[32:], flagAllowMap)
	}
	n.PutUint16(b[16:], 64)     // requests in the background
	n.PutUint32(b[20:], 64<<10) // largest write
	n.PutUint32(b[24:], 1)      // granularity of times
	return b
}
