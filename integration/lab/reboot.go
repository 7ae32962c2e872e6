package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// Reboot does to what a daemon that has ended leaves behind what a reboot of the machine does: processes, cgroups and mounts are
// gone, the state folder, which lies on a tmpfs, is empty, and the kernel has another boot ID than the records have.
func (l *Lab) Reboot(ctx context.Context) error {
	if l.Daemon.Running() {
		return errors.New("a reboot comes after the daemon's end: end it first")
	}
	pids, err := l.Daemon.Shims()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := KillProcess(ctx, pid); err != nil {
			return err
		}
	}
	if err := removeCgroups(l.Name); err != nil {
		return err
	}
	if err := removeTree(l.StateDir()); err != nil {
		return fmt.Errorf("empty the state folder: %w", err)
	}
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(l.RootDir()))
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %s: %w", m.Mountpoint, err)
		}
	}
	return l.forgetBoot()
}

// forgetBoot gives the daemon's records another boot ID.
func (l *Lab) forgetBoot() error {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return err
	}
	now := bytes.TrimSpace(b)
	before := []byte(strings.Repeat("0", len(now)))
	db, err := bolt.Open(filepath.Join(l.RootDir(), "engine/meta.db"), 0o600, &bolt.Options{Timeout: time.Minute})
	if err != nil {
		return fmt.Errorf("open the daemon's database: %w", err)
	}
	defer db.Close()
	return db.Update(func(tx *bolt.Tx) error {
		return tx.ForEach(func(_ []byte, top *bolt.Bucket) error { return replaceIn(top, now, before) })
	})
}

// replaceIn replaces text in all values of a bucket and those in it.
func replaceIn(in *bolt.Bucket, old, with []byte) error {
	changed := map[string][]byte{}
	err := in.ForEach(func(k, v []byte) error {
		if v == nil {
			return replaceIn(in.Bucket(k), old, with)
		}
		if bytes.Contains(v, old) {
			changed[string(k)] = bytes.ReplaceAll(v, old, with)
		}
		return nil
	})
	for k, v := range changed {
		err = errors.Join(err, in.Put([]byte(k), v))
	}
	return err
}
