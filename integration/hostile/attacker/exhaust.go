package main

import (
	"os"
	"strconv"
	"syscall"
)

// takeInotify takes what inotify has for the user, of instances and of watches.
func takeInotify() {
	var instances []int
	for {
		fd, err := syscall.InotifyInit1(syscall.IN_CLOEXEC)
		if err != nil {
			break
		}
		instances = append(instances, fd)
	}
	dir, err := os.MkdirTemp("/dev/shm", "watched")
	if err != nil || len(instances) == 0 {
		return
	}
	for n := 0; n < 200_000; n++ {
		path := dir + "/" + strconv.Itoa(n)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			return
		}
		if _, err := syscall.InotifyAddWatch(instances[0], path, syscall.IN_MODIFY); err != nil {
			return
		}
	}
}

// takeEpoll makes epoll instances that watch each other's pipes, as long as there are descriptors.
func takeEpoll() {
	var pipes []int
	for len(pipes) < 500 {
		var p [2]int
		if syscall.Pipe2(p[:], syscall.O_CLOEXEC) != nil {
			break
		}
		pipes = append(pipes, p[0], p[1])
	}
	for range 400 {
		ep, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
		if err != nil {
			return
		}
		for _, fd := range pipes {
			if err := syscall.EpollCtl(ep, syscall.EPOLL_CTL_ADD, fd, &syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(fd)}); err != nil {
				return
			}
		}
	}
}
