package engine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// bbolt follows what its pages say: one that points back at itself, or beyond its end, makes it loop, overflow the stack or panic
// in a goroutine of its own, none of which can be caught. So the pages are walked here first, each once. The format is that
// of go.etcd.io/bbolt (internal/common: page.go, meta.go, bucket.go), little-endian.

const (
	boltMagic      = 0xED0CDAED
	boltVersion    = 2
	pageHeaderSize = 16
	elementSize    = 16 // of branch and leaf pages alike
	bucketSize     = 16 // of a bucket's value, before an inline page
	branchFlag     = 0x01
	leafFlag       = 0x02
	bucketElement  = 0x01
	metaSize       = 64
	maxPageDepth   = 64
)

// checkPages walks all pages that the database at path refers to.
func checkPages(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	// Pages that another process writes look damaged. bbolt says who is in the way when it opens the file.
	for until := time.Now().Add(lockWait); ; time.Sleep(lockWait / 60) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return fmt.Errorf("lock %s: %w", path, err)
		}
		if time.Now().After(until) {
			return nil
		}
	}
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if st.Size() < 2*metaSize {
		return fmt.Errorf("the file has %d bytes", st.Size())
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map %s: %w", path, err)
	}
	defer unix.Munmap(b)
	w, root, err := newPageWalk(b)
	if err != nil {
		return err
	}
	return w.page(root, 0)
}

// pageWalk is one look at all pages.
type pageWalk struct {
	b    []byte
	size uint64 // of a page
	end  uint64 // behind the last page that was ever used
	seen map[uint64]bool
}

// newPageWalk reads the newer valid meta page of the two, as bbolt does.
func newPageWalk(b []byte) (w *pageWalk, root uint64, err error) {
	var newest uint64
	for _, at := range metaOffsets(b) {
		if at+pageHeaderSize+metaSize > uint64(len(b)) {
			continue
		}
		m := b[at+pageHeaderSize:][:metaSize]
		sum := fnv.New64a()
		_, _ = sum.Write(m[:metaSize-8])
		if binary.LittleEndian.Uint32(m) != boltMagic || binary.LittleEndian.Uint32(m[4:]) != boltVersion || sum.Sum64() != binary.LittleEndian.Uint64(m[56:]) {
			continue
		}
		if tx := binary.LittleEndian.Uint64(m[48:]); w == nil || tx > newest {
			newest = tx
			w = &pageWalk{b: b, size: uint64(binary.LittleEndian.Uint32(m[8:])), end: binary.LittleEndian.Uint64(m[40:]), seen: map[uint64]bool{}}
			root = binary.LittleEndian.Uint64(m[16:])
		}
	}
	if w == nil {
		return nil, 0, errors.New("neither of the two meta pages is whole")
	}
	if w.size < 1024 || w.end*w.size > uint64(len(b)) || w.end > uint64(len(b)) {
		return nil, 0, fmt.Errorf("the file has %d bytes, its pages %d of %d", len(b), w.end, w.size)
	}
	return w, root, nil
}

// metaOffsets are where the two meta pages may be: the second one's place depends on the size of pages, which the first one
// tells unless it is damaged.
func metaOffsets(b []byte) []uint64 {
	size := uint64(os.Getpagesize())
	if len(b) >= pageHeaderSize+metaSize && binary.LittleEndian.Uint32(b[pageHeaderSize:]) == boltMagic {
		size = uint64(binary.LittleEndian.Uint32(b[pageHeaderSize+8:]))
	}
	return []uint64{0, size, uint64(os.Getpagesize())}
}

// page checks one page and all below it.
func (w *pageWalk) page(id uint64, depth int) error {
	if depth > maxPageDepth {
		return fmt.Errorf("page %d is %d levels deep", id, depth)
	}
	if id < 2 || id >= w.end {
		return fmt.Errorf("there is no page %d", id)
	}
	head := w.b[id*w.size:][:w.size]
	span := uint64(binary.LittleEndian.Uint32(head[12:])) + 1
	if got := binary.LittleEndian.Uint64(head); got != id || span > w.end-id {
		return fmt.Errorf("page %d calls itself %d, with %d pages", id, got, span)
	}
	for n := id; n < id+span; n++ {
		if w.seen[n] {
			return fmt.Errorf("page %d is used twice", n)
		}
		w.seen[n] = true
	}
	if err := w.elements(w.b[id*w.size:][:span*w.size], depth, true); err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	return nil
}

// elements checks what stands in a page; the page of an inline bucket is a leaf without pages below it.
func (w *pageWalk) elements(p []byte, depth int, branches bool) error {
	if len(p) < pageHeaderSize {
		return fmt.Errorf("it has %d bytes", len(p))
	}
	flags, count := binary.LittleEndian.Uint16(p[8:]), int(binary.LittleEndian.Uint16(p[10:]))
	if flags != leafFlag && (flags != branchFlag || !branches || count == 0) {
		return fmt.Errorf("flags are %#x, with %d elements", flags, count)
	}
	if pageHeaderSize+count*elementSize > len(p) {
		return fmt.Errorf("it has no room for %d elements", count)
	}
	var last []byte
	for i := range count {
		at := pageHeaderSize + i*elementSize
		e := p[at:][:elementSize]
		var key []byte
		var err error
		if flags == branchFlag {
			key, err = part(p, at, binary.LittleEndian.Uint32(e), 0, binary.LittleEndian.Uint32(e[4:]))
			if err == nil {
				err = w.page(binary.LittleEndian.Uint64(e[8:]), depth+1)
			}
		} else {
			key, err = w.leaf(p, at, e, depth)
		}
		if err != nil {
			return err
		}
		if i > 0 && bytes.Compare(last, key) >= 0 {
			return errors.New("its keys are not in order")
		}
		last = key
	}
	return nil
}

func (w *pageWalk) leaf(p []byte, at int, e []byte, depth int) (key []byte, err error) {
	flags, pos := binary.LittleEndian.Uint32(e), binary.LittleEndian.Uint32(e[4:])
	keySize, valueSize := binary.LittleEndian.Uint32(e[8:]), binary.LittleEndian.Uint32(e[12:])
	if key, err = part(p, at, pos, 0, keySize); err != nil {
		return nil, err
	}
	value, err := part(p, at, pos, keySize, valueSize)
	if err != nil || flags == 0 {
		return key, err
	}
	if flags != bucketElement || len(value) < bucketSize {
		return nil, fmt.Errorf("an element has flags %#x and %d bytes", flags, len(value))
	}
	if root := binary.LittleEndian.Uint64(value); root != 0 {
		return key, w.page(root, depth+1)
	}
	return key, w.elements(value[bucketSize:], depth, false)
}

// part gives size bytes of p, skip behind the position that the element at gives.
func part(p []byte, at int, pos, skip, size uint32) ([]byte, error) {
	from := uint64(at) + uint64(pos) + uint64(skip)
	if from+uint64(size) > uint64(len(p)) {
		return nil, fmt.Errorf("an element lies outside, at %d with %d bytes", from, size)
	}
	return p[from:][:size], nil
}
