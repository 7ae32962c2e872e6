#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "child.h"

/* The steps of a start, in the order in which they are done. */
enum step { STEP_CGROUP, STEP_STREAMS, STEP_LIMITS, STEP_GROUPS, STEP_USER, STEP_CAPABILITIES, STEP_FOLDER, STEP_EXEC };
static const char *const steps[] = {"cgroup", "streams", "limits", "groups", "user", "capabilities", "folder", "exec"};

struct report {
	enum step step;
	int error;
};

const char *open_streams(const struct app *app, struct streams *s)
{
	*s = (struct streams){-1, -1, -1};
	if (app->tty)
		return NULL; /* each start opens it anew: the end of a session hangs its terminal up */
	/* A FIFO that nobody writes to yet must not hold us up; the application expects to be held up. */
	s->in = open(app->in ? app->in : "/dev/null", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (s->in < 0)
		return app->in ? app->in : "/dev/null";
	if (fcntl(s->in, F_SETFL, 0))
		return app->in;
	/* Read-write: the death of a reader is no SIGPIPE. */
	s->out = open(app->out ? app->out : "/dev/null", O_RDWR | O_CLOEXEC);
	if (s->out < 0)
		return app->out;
	s->err = open(app->err ? app->err : "/dev/null", O_RDWR | O_CLOEXEC);
	return s->err < 0 ? app->err : NULL;
}

static bool join(const char *procs)
{
	int fd = open(procs, O_WRONLY | O_CLOEXEC);
	bool ok;

	if (fd < 0)
		return false;
	ok = write(fd, "0", 1) == 1;
	close(fd);
	return ok;
}

static bool take_streams(const struct app *app, const struct streams *s)
{
	int in = s->in, out = s->out, err = s->err;

	if (setsid() < 0)
		return false;
	if (app->tty) /* the first terminal that the leader of a session opens is the session's (tty(4)) */
		in = out = err = open(app->tty, O_RDWR | O_CLOEXEC);
	return dup2(in, 0) == 0 && dup2(out, 1) == 1 && dup2(err, 2) == 2;
}

static bool set_limits(const struct app *app)
{
	for (size_t i = 0; i < app->limits_len; i++)
		if (setrlimit(app->limits[i].resource, &app->limits[i].value))
			return false;
	return true;
}

/* keep_ambient keeps capabilities over the change of the user and the exec (capabilities(7)). */
static bool keep_ambient(uint64_t ambient)
{
	struct { uint32_t version; int pid; } header = {0x20080522, 0};
	struct { uint32_t effective, permitted, inheritable; } data[2];

	if (!ambient)
		return true;
	if (syscall(SYS_capget, &header, data))
		return false;
	for (int i = 0; i < 2; i++) {
		uint32_t mine = (uint32_t)(ambient >> (32 * i));

		if (mine & ~data[i].permitted) {
			errno = EPERM;
			return false;
		}
		data[i].inheritable |= mine;
		data[i].effective |= mine;
	}
	if (syscall(SYS_capset, &header, data))
		return false;
	for (unsigned long c = 0; c < 64; c++)
		if (ambient >> c & 1 && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, c, 0, 0))
			return false;
	return true;
}

/* enter changes to the application's folder. One that is missing is made, as a container runtime does. */
static bool enter(const char *dir)
{
	char path[PATH_MAX];

	if (!chdir(dir))
		return true;
	if (errno != ENOENT || snprintf(path, sizeof path, "%s", dir) >= (int)sizeof path)
		return false;
	for (char *slash = path; (slash = strchr(slash + 1, '/'));) {
		*slash = 0;
		mkdir(path, 0755);
		*slash = '/';
	}
	mkdir(path, 0755);
	return !chdir(dir);
}

/* execute does all the steps; it returns only if one fails. */
static enum step execute(const struct app *app, const struct streams *s, const char *procs, const sigset_t *mask)
{
	bool there;

	if (procs && !join(procs))
		return STEP_CGROUP;
	if (!take_streams(app, s))
		return STEP_STREAMS;
	if (!set_limits(app))
		return STEP_LIMITS;
	there = enter(app->dir); /* as root: the user may not see the way there */
	if (app->mask >= 0)
		umask((mode_t)app->mask);
	if (setgroups(app->groups_len, app->groups) || setresgid(app->gid, app->gid, app->gid))
		return STEP_GROUPS;
	if (app->ambient && prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0))
		return STEP_CAPABILITIES;
	if (setresuid(app->uid, app->uid, app->uid))
		return STEP_USER;
	if (!keep_ambient(app->ambient))
		return STEP_CAPABILITIES;
	if (!there && chdir(app->dir)) /* as the user: root may be kept out, as of a folder of his on a network */
		return STEP_FOLDER;
	if (app->no_new_privs && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return STEP_CAPABILITIES;
	sigprocmask(SIG_SETMASK, mask, NULL);
	environ = app->env; /* its PATH is the one to search */
	execvp(app->argv[0], app->argv);
	return STEP_EXEC;
}

pid_t start_app(const struct app *app, const struct streams *s, const char *procs, const sigset_t *mask, const char **failed)
{
	struct report report;
	ssize_t n;
	int fds[2];
	pid_t pid;

	*failed = "fork";
	if (pipe2(fds, O_CLOEXEC))
		return -1;
	pid = fork();
	if (!pid) {
		report.step = execute(app, s, procs, mask);
		report.error = errno;
		n = write(fds[1], &report, sizeof report);
		_exit(n == sizeof report ? 127 : 126);
	}
	close(fds[1]);
	if (pid < 0) {
		close(fds[0]);
		return -1;
	}
	do
		n = read(fds[0], &report, sizeof report);
	while (n < 0 && errno == EINTR);
	close(fds[0]);
	if (n != sizeof report)
		return pid; /* it was executed, or died on the way: its end says how */
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	*failed = steps[report.step];
	errno = report.error;
	return -1;
}
