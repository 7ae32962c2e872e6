package cgrouptree

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// devicesMax bounds how many block devices are reported of one tree.
const devicesMax = 64

// Device is what a tree read from and wrote to one block device, in bytes and requests.
type Device struct {
	Major, Minor          uint64
	ReadBytes, WriteBytes uint64
	Reads, Writes         uint64
}

// deviceTable collects the lines of a file by device, in their order.
type deviceTable struct {
	list []Device
	at   map[string]int
}

// find gives the entry of a device "MAJOR:MINOR"; nil for anything else, and when there are too many.
func (d *deviceTable) find(numbers string) *Device {
	if i, ok := d.at[numbers]; ok {
		return &d.list[i]
	}
	left, right, found := strings.Cut(numbers, ":")
	major, err := strconv.ParseUint(left, 10, 32)
	minor, err2 := strconv.ParseUint(right, 10, 32)
	if !found || err != nil || err2 != nil || len(d.list) == devicesMax {
		return nil
	}
	if d.at == nil {
		d.at = map[string]int{}
	}
	d.at[numbers] = len(d.list)
	d.list = append(d.list, Device{Major: major, Minor: minor})
	return &d.list[len(d.list)-1]
}

// devicesV1 reads "8:0 Read 4096" lines (Documentation/admin-guide/cgroup-v1/blkio-controller.rst); the throttling
// files count whichever scheduler a device has.
func devicesV1(dir string) []Device {
	var table deviceTable
	for file, fields := range map[string]func(*Device) (read, write *uint64){
		"blkio.throttle.io_service_bytes_recursive": func(d *Device) (*uint64, *uint64) { return &d.ReadBytes, &d.WriteBytes },
		"blkio.throttle.io_serviced_recursive":      func(d *Device) (*uint64, *uint64) { return &d.Reads, &d.Writes },
	} {
		text, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			if len(f) != 3 || f[1] != "Read" && f[1] != "Write" {
				continue
			}
			d := table.find(f[0])
			if d == nil {
				continue
			}
			read, write := fields(d)
			n, _ := strconv.ParseUint(f[2], 10, 64)
			if f[1] == "Read" {
				*read = n
			} else {
				*write = n
			}
		}
	}
	return table.list
}

// devicesV2 reads "8:0 rbytes=4096 wbytes=0 rios=1 wios=0 ..." lines of io.stat.
func devicesV2(dir string) []Device {
	text, err := os.ReadFile(filepath.Join(dir, "io.stat"))
	if err != nil {
		return nil
	}
	var table deviceTable
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		d := table.find(f[0])
		if d == nil {
			continue
		}
		fields := map[string]*uint64{"rbytes": &d.ReadBytes, "wbytes": &d.WriteBytes, "rios": &d.Reads, "wios": &d.Writes}
		for _, pair := range f[1:] {
			key, value, _ := strings.Cut(pair, "=")
			if p := fields[key]; p != nil {
				*p, _ = strconv.ParseUint(value, 10, 64)
			}
		}
	}
	return table.list
}
