// Package fusefs serves a small FUSE file system that stops answering on command. Tests put it where a pod could put one, under
// a volume or a root filesystem, to see who waits for it. It speaks to /dev/fuse directly and needs root.
package fusefs
