#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "roles.h"

/* The user namespace comes last: rights over the others are the caller's. */
static const char *const kinds[] = {"cgroup", "ipc", "uts", "net", "pid", "mnt", "user"};
#define KINDS (sizeof kinds / sizeof *kinds)
#define USER (KINDS - 1)

/* failed says what did not work; the code is that of a program that cannot be run. */
static int failed(const char *what, const char *which)
{
	fprintf(stderr, "pouch-enter: %s %s: %s\n", what, which, strerror(errno));
	return 126;
}

/* namespace opens a namespace of a process; -1 where it is our own. */
static int namespace(const char *pid, const char *kind, int *fd)
{
	struct stat own, its;
	char path[64];

	snprintf(path, sizeof path, "/proc/self/ns/%s", kind);
	if (stat(path, &own))
		return failed("look at", path);
	snprintf(path, sizeof path, "/proc/%.20s/ns/%s", pid, kind);
	*fd = open(path, O_RDONLY | O_CLOEXEC);
	if (*fd < 0 || fstat(*fd, &its))
		return failed("open", path);
	if (own.st_dev == its.st_dev && own.st_ino == its.st_ino) {
		close(*fd);
		*fd = -1;
	}
	return 0;
}

/* join enters them all; in a user namespace we become its root. */
static int join(const char *pid)
{
	int fds[KINDS], code;

	for (size_t i = 0; i < KINDS; i++)
		if ((code = namespace(pid, kinds[i], &fds[i])))
			return code;
	for (size_t i = 0; i < KINDS; i++)
		if (fds[i] >= 0 && setns(fds[i], 0))
			return failed("enter namespace", kinds[i]);
	if (fds[USER] >= 0 && (setgid(0) || setgroups(0, NULL) || setuid(0)))
		return failed("become", "root");
	return 0;
}

int enter(int argc, char **argv)
{
	pid_t child, pid;
	int status, code;
	char c;

	if (argc < 3) {
		fputs("usage: pouch-init enter PID PROGRAM ARGV0 [ARGUMENT...]\n", stderr);
		return 126;
	}
	/* Whoever has started us puts us into a cgroup first. */
	while (read(3, &c, 1) > 0 || errno == EINTR)
		errno = 0;
	close(3);
	if ((code = join(argv[0])))
		return code;
	child = fork(); /* a pid namespace is entered by children only */
	if (child < 0)
		return failed("fork for", argv[1]);
	if (!child) {
		execv(argv[1], argv + 2);
		code = errno == ENOENT || errno == ENOTDIR ? 127 : 126;
		failed("run", argv[1]);
		_exit(code);
	}
	while ((pid = waitpid(child, &status, 0)) < 0 && errno == EINTR)
		;
	if (pid < 0)
		return failed("wait for", argv[1]);
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
