package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Probe is where the images of rich containers have the program of integration/rich/probe.
const Probe = "/usr/local/bin/probe"

// RootfsLayer is a root filesystem that integration/scripts/rich-images.sh has built into dir, as a layer.
// os.ErrNotExist: it has not.
func RootfsLayer(dir, name string) (v1.Layer, error) {
	path := filepath.Join(dir, name+".tar")
	digest, err := os.ReadFile(filepath.Join(dir, name+".digest"))
	if err != nil {
		return nil, err
	}
	h, err := v1.NewHash("sha256:" + strings.TrimSpace(string(digest)))
	if err != nil {
		return nil, fmt.Errorf("digest of image %s: %w", name, err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	return &fileLayer{path: path, digest: h, size: info.Size()}, nil
}

// ProbeFile is the file Probe of an image; the program at path must be linked statically.
func ProbeFile(path string) (File, error) {
	b, err := os.ReadFile(path)
	return File{Name: Probe, Mode: 0o755, Content: b}, err
}

// BusyboxInit are files that make busybox the init of an image of BusyboxFiles: /sbin/init, and an inittab with lines for
// the start, a service and the shutdown, which leave the files /rcS-ran and /shutdown-ran.
func BusyboxInit() []File {
	return []File{
		{Name: "sbin/init", Link: "/bin/busybox"},
		{Name: "etc/inittab", Content: []byte("# the image's own\n::sysinit:/etc/init.d/rcS\n::respawn:/bin/crond -f -c /etc/crontabs\n::shutdown:/bin/touch /shutdown-ran\n")},
		{Name: "etc/init.d/rcS", Mode: 0o755, Content: []byte("#!/bin/sh\ntouch /rcS-ran\n")},
		{Name: "etc/crontabs/"},
	}
}
