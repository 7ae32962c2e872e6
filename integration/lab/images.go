package lab

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"sort"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Busybox is where Debian's package busybox-static has its one binary.
const Busybox = "/bin/busybox"

// builtAt is the time of everything in an image, so that the same content has the same digest in every run.
var builtAt = time.Unix(1700000000, 0).UTC()

// File is an entry of a layer. A name that ends in "/" is a folder; Link makes it a symbolic link.
type File struct {
	Name    string
	Mode    int64 // 0: 0755 for folders, 0644 for files
	UID     int
	GID     int
	Link    string
	Content []byte
	Xattrs  map[string]string // extended attributes by name
}

// Layer makes a gzipped layer of files, in their order; missing parents are made 0755, owned by root.
func Layer(files ...File) (v1.Layer, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	made := map[string]bool{".": true, "/": true}
	var add func(f File) error
	add = func(f File) error {
		name := strings.TrimPrefix(path.Clean("/"+f.Name), "/")
		if made[name] {
			return nil
		}
		if parent := path.Dir(name); !made[parent] {
			if err := add(File{Name: parent + "/"}); err != nil {
				return err
			}
		}
		made[name] = true
		h := tar.Header{Name: name, Mode: f.Mode, Uid: f.UID, Gid: f.GID, ModTime: builtAt, Typeflag: tar.TypeReg, Size: int64(len(f.Content))}
		for name, value := range f.Xattrs {
			if h.PAXRecords == nil {
				h.PAXRecords = map[string]string{}
			}
			h.PAXRecords["SCHILY.xattr."+name] = value
		}
		switch {
		case f.Link != "":
			h.Typeflag, h.Linkname, h.Mode, h.Size = tar.TypeSymlink, f.Link, 0o777, 0
		case strings.HasSuffix(f.Name, "/"):
			h.Typeflag, h.Name = tar.TypeDir, name+"/"
			if h.Mode == 0 {
				h.Mode = 0o755
			}
		case h.Mode == 0:
			h.Mode = 0o644
		}
		if err := w.WriteHeader(&h); err != nil {
			return err
		}
		_, err := w.Write(f.Content)
		return err
	}
	for _, f := range files {
		if err := add(f); err != nil {
			return nil, fmt.Errorf("add %s to a layer: %w", f.Name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	raw := buf.Bytes()
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil },
		tarball.WithMediaType(types.OCILayer))
}

// FIFOLayer makes a layer with a FIFO of that path.
func FIFOLayer(name string) (v1.Layer, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, ModTime: builtAt, Typeflag: tar.TypeFifo}); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	raw := buf.Bytes()
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil }, tarball.WithMediaType(types.OCILayer))
}

const passwdFile = `root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
app:x:1000:1000:an application:/home/app:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/false
`

const groupFile = `root:x:0:
daemon:x:1:
app:x:1000:
extra:x:1500:app
nogroup:x:65534:
`

// BusyboxFiles are the files of a small root filesystem: busybox with a link for each of its applets, users root (0),
// app (1000, also in group 1500) and nobody.
func BusyboxFiles() ([]File, error) {
	binary, err := os.ReadFile(Busybox)
	if err != nil {
		return nil, fmt.Errorf("read busybox (apt-get install busybox-static): %w", err)
	}
	out, err := exec.Command(Busybox, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("list the applets of %s: %w", Busybox, err)
	}
	files := []File{
		{Name: "bin/busybox", Mode: 0o755, Content: binary},
		{Name: "etc/passwd", Content: []byte(passwdFile)},
		{Name: "etc/group", Content: []byte(groupFile)},
		{Name: "home/app/", UID: 1000, GID: 1000},
		{Name: "root/", Mode: 0o700},
		{Name: "tmp/", Mode: 0o1777},
		{Name: "proc/"}, {Name: "sys/"}, {Name: "dev/"}, {Name: "usr/bin/"}, {Name: "usr/sbin/"}, {Name: "sbin/"},
		{Name: "etc/not-executable", Content: []byte("#!/bin/sh\n")},
	}
	applets := strings.Fields(string(out))
	sort.Strings(applets)
	for _, a := range applets {
		if a != "busybox" {
			files = append(files, File{Name: "bin/" + a, Link: "busybox"})
		}
	}
	return files, nil
}

// Image makes an OCI image of layers for this machine's platform; edit, where given, changes its configuration.
func Image(edit func(*v1.ConfigFile), layers ...v1.Layer) (v1.Image, error) {
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.AppendLayers(img, layers...)
	if err != nil {
		return nil, err
	}
	conf, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	conf = conf.DeepCopy()
	conf.OS, conf.Architecture, conf.Created = "linux", machineArch(), v1.Time{Time: builtAt}
	conf.Config.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	conf.Config.Cmd = []string{"sleep", "infinity"}
	if edit != nil {
		edit(conf)
	}
	return mutate.ConfigFile(img, conf)
}

// BusyboxImage is a small image with a shell. Its file /version holds version, in a layer of its own, so that two
// versions share the layer of busybox.
func BusyboxImage(version string, edit func(*v1.ConfigFile)) (v1.Image, error) {
	files, err := BusyboxFiles()
	if err != nil {
		return nil, err
	}
	base, err := Layer(files...)
	if err != nil {
		return nil, err
	}
	top, err := Layer(File{Name: "version", Content: []byte(version + "\n")})
	if err != nil {
		return nil, err
	}
	return Image(edit, base, top)
}

// PushVersions publishes NAME:1, whose /version says "one", and NAME:2, whose says "two".
func (l *Lab) PushVersions(name string) error {
	for tag, version := range map[string]string{name + ":1": "one", name + ":2": "two"} {
		img, err := BusyboxImage(version, nil)
		if err != nil {
			return err
		}
		if err := l.Images.Push(tag, img); err != nil {
			return fmt.Errorf("push image %s: %w", tag, err)
		}
	}
	return nil
}
