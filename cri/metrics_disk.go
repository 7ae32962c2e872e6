package cri

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/shim/task"
)

// filesystem is the one that writable layers lie on.
type filesystem struct {
	device             string
	bytes              uint64
	inodes, inodesFree uint64
}

// lookAtFilesystem is nil where the folder cannot be looked at.
func lookAtFilesystem(dir string) *filesystem {
	var fs unix.Statfs_t
	var st unix.Stat_t
	if unix.Statfs(dir, &fs) != nil || unix.Stat(dir, &st) != nil {
		return nil
	}
	return &filesystem{
		device: deviceName(uint64(unix.Major(st.Dev)), uint64(unix.Minor(st.Dev))),
		bytes:  fs.Blocks * uint64(fs.Bsize), inodes: fs.Files, inodesFree: fs.Ffree,
	}
}

// deviceName gives "/dev/sda" for a device that the kernel knows, its numbers for others, such as those of tmpfs.
func deviceName(major, minor uint64) string {
	numbers := deviceNumbers(major, minor)
	target, err := os.Readlink("/sys/dev/block/" + numbers)
	if err != nil {
		return numbers
	}
	return "/dev/" + filepath.Base(target)
}

func diskFamilies() []family {
	place := func(name, help string, get func(*measured) uint64) family {
		return family{name: name, help: help, kind: gauge, labels: []string{"device"}, read: func(m *measured) []sample {
			if m.place == nil || m.container.layer == nil {
				return nil
			}
			return []sample{{get(m), []string{m.place.device}}}
		}}
	}
	device := func(name, help string, get func(task.DeviceIO) uint64) family {
		return family{name: name, help: help, kind: counter, labels: []string{"device"}, read: func(m *measured) []sample {
			var all []sample
			for _, d := range m.stats.Devices {
				all = append(all, sample{get(d), []string{deviceName(d.Major, d.Minor)}})
			}
			return all
		}}
	}
	usage := func(m *measured) []sample {
		var all []sample
		for _, d := range m.stats.Devices {
			at := []string{deviceName(d.Major, d.Minor), strconv.FormatUint(d.Major, 10), strconv.FormatUint(d.Minor, 10)}
			all = append(all, sample{d.ReadBytes, append(slices.Clone(at), "Read")}, sample{d.WriteBytes, append(at, "Write")})
		}
		return all
	}
	return []family{
		{name: "container_blkio_device_usage_total", help: "Bytes read from and written to a device", kind: counter,
			labels: []string{"device", "major", "minor", "operation"}, read: usage},
		place("container_fs_usage_bytes", "Bytes of the writable layer", func(m *measured) uint64 { return m.container.layer.Bytes }),
		place("container_fs_limit_bytes", "Size of the filesystem that the writable layer lies on", func(m *measured) uint64 { return m.place.bytes }),
		place("container_fs_inodes_total", "Inodes of that filesystem", func(m *measured) uint64 { return m.place.inodes }),
		place("container_fs_inodes_free", "Free inodes of that filesystem", func(m *measured) uint64 { return m.place.inodesFree }),
		device("container_fs_reads_bytes_total", "Bytes read from a device", func(d task.DeviceIO) uint64 { return d.ReadBytes }),
		device("container_fs_writes_bytes_total", "Bytes written to a device", func(d task.DeviceIO) uint64 { return d.WriteBytes }),
		device("container_fs_reads_total", "Requests to read from a device", func(d task.DeviceIO) uint64 { return d.Reads }),
		device("container_fs_writes_total", "Requests to write to a device", func(d task.DeviceIO) uint64 { return d.Writes }),
	}
}
