/* The launcher runs a rich container's application as the one extra service of the container's init, whichever that is. It
 * reads what to run from a file, gives the application our streams, appends what happens to a record, restarts as declared,
 * and passes stop signals on. Who watches the record (record.h) from outside ends the container. Lines of the control FIFO:
 * "signal N" for the application, "stop N" the same and no restart any more. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "app.h"
#include "child.h"
#include "group.h"
#include "record.h"
#include "rest.h"
#include "roles.h"

#define DEFAULT_FILE "/run/.pouch/app"
#define REST_LIMIT 2000000000LL /* ns that processes may take to die of SIGKILL */

struct launcher {
	struct app app;
	struct streams streams;
	struct group group;
	sigset_t mask; /* of the application */
	int record, control, signals;
	char line[RECORD_LINE]; /* of the control FIFO, as far as it is there */
	size_t line_len;
	unsigned int starts;
	pid_t pid;   /* of the application; 0: it does not run */
	int status;  /* of its last end, as waitpid gives it */
	unsigned long long oom_kills; /* in its cgroup, as of its last start */
	bool stopping;
};

static long long now(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (long long)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int code_of(int status)
{
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static void pass(struct launcher *l, int signal)
{
	if (l->pid > 0)
		kill(l->pid, signal);
}

/* reap takes the application and the orphans that it left to us. */
static void reap(struct launcher *l)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0 || (pid < 0 && errno == EINTR)) {
		if (pid != l->pid)
			continue;
		l->pid = 0;
		l->status = status;
		note_line(l->record, "end %u %s %d %lld%s\n", l->starts, WIFSIGNALED(status) ? "signal" : "exit",
			  WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status), now(CLOCK_REALTIME),
			  group_oom_kills(&l->group) > l->oom_kills ? " oom" : "");
	}
}

/* on_signal takes what the init sends: it wants the application ended, or has something to tell it. */
static void on_signal(struct launcher *l)
{
	struct signalfd_siginfo info;

	while (read(l->signals, &info, sizeof info) == sizeof info) {
		int signal = (int)info.ssi_signo;

		if (signal == SIGCHLD) {
			reap(l);
			continue;
		}
		if (signal == SIGTERM || signal == SIGINT || signal == SIGQUIT || signal == SIGPWR)
			l->stopping = true;
		if (signal != SIGPIPE)
			pass(l, signal);
	}
}

static void obey(struct launcher *l)
{
	int signal;

	if (sscanf(l->line, "stop %d", &signal) == 1)
		l->stopping = true;
	else if (sscanf(l->line, "signal %d", &signal) != 1)
		return;
	if (signal > 0 && signal <= 64)
		pass(l, signal);
}

static void on_control(struct launcher *l)
{
	char c;

	while (read(l->control, &c, 1) == 1) {
		if (c != '\n') {
			if (l->line_len < sizeof l->line - 1)
				l->line[l->line_len++] = c;
			continue;
		}
		l->line[l->line_len] = 0;
		l->line_len = 0;
		obey(l);
	}
}

/* attend serves signals and control until the application does not run, or, where it does not, for wait milliseconds. */
static void attend(struct launcher *l, unsigned long wait)
{
	struct pollfd fds[2] = {{l->signals, POLLIN, 0}, {l->control, POLLIN, 0}};
	bool running = l->pid > 0;
	long long until = now(CLOCK_MONOTONIC) + (long long)wait * 1000000, left;

	while (running ? l->pid > 0 : !l->stopping) {
		left = (until - now(CLOCK_MONOTONIC) + 999999) / 1000000;
		if (!running && left <= 0)
			return;
		if (poll(fds, 2, running ? -1 : (int)left) < 0 && errno != EINTR)
			return;
		on_signal(l);
		on_control(l);
	}
}

static bool wants_restart(const struct launcher *l)
{
	if (l->stopping || l->app.restart == RESTART_NO || l->starts > l->app.restart_limit)
		return false;
	return l->app.restart == RESTART_ALWAYS || code_of(l->status);
}

/* end_rest ends what the application has left running: its end is the end of the service, and an init on cgroup v1 would
 * wait for the rest without being told of its end. Children of what dies come to us in turn. */
static void end_rest(struct launcher *l)
{
	const struct timespec pause = {.tv_nsec = 5000000};
	long long until = now(CLOCK_MONOTONIC) + REST_LIMIT;

	empty_group(&l->group);
	while (kill_children() && now(CLOCK_MONOTONIC) < until) {
		nanosleep(&pause, NULL);
		reap(l);
	}
}

/* run starts the application as often as declared and gives the container's exit code. */
static int run(struct launcher *l)
{
	const char *failed;

	for (;;) {
		on_control(l); /* a stop that came before the start */
		if (l->stopping)
			return l->starts ? code_of(l->status) : 128 + SIGTERM;
		l->starts++;
		l->oom_kills = group_oom_kills(&l->group);
		l->pid = start_app(&l->app, &l->streams, l->group.procs, &l->mask, &failed);
		if (l->pid < 0) {
			int error = errno;

			l->pid = 0;
			note_line(l->record, "failed %u %d %s\n", l->starts, error, failed);
			fprintf(stderr, "pouch-launch: %s: %s: %s\n", l->app.argv[0], failed, strerror(error));
			return error == ENOENT ? 127 : 126;
		}
		note_line(l->record, "start %u %d %lld\n", l->starts, (int)l->pid, now(CLOCK_REALTIME));
		attend(l, 0);
		end_rest(l);
		if (!wants_restart(l))
			return code_of(l->status);
		attend(l, l->app.restart_wait);
	}
}

static bool prepare(struct launcher *l, const char *path)
{
	const char *wrong = read_app(path, &l->app);
	sigset_t all;

	if (wrong) {
		fprintf(stderr, "pouch-launch: %s %s\n", path, wrong);
		return false;
	}
	if (l->app.record && (l->record = open(l->app.record, O_WRONLY | O_APPEND | O_CLOEXEC)) < 0) {
		fprintf(stderr, "pouch-launch: %s: %s\n", l->app.record, strerror(errno));
		return false;
	}
	if (l->record >= 0)
		hold_record(l->record);
	if (l->app.control && (l->control = open(l->app.control, O_RDWR | O_NONBLOCK | O_CLOEXEC)) < 0) {
		fprintf(stderr, "pouch-launch: %s: %s\n", l->app.control, strerror(errno));
		return false;
	}
	sigemptyset(&l->mask);
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	l->signals = signalfd(-1, &all, SFD_NONBLOCK | SFD_CLOEXEC);
	prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	return l->signals >= 0;
}

int launch(int argc, char **argv)
{
	struct launcher l = {.record = -1, .control = -1, .signals = -1};
	const char *wrong;
	int code = 126;

	if (argc == 2 && !strcmp(argv[0], "unit"))
		return note_unit(argv[1]);
	if (!prepare(&l, argc > 0 ? argv[0] : DEFAULT_FILE)) {
		note_line(l.record, "failed 0 %d launcher\n", EINVAL);
	} else if ((wrong = open_streams(&l.app, &l.streams))) {
		note_line(l.record, "failed 0 %d streams\n", errno);
		fprintf(stderr, "pouch-launch: %s: %s\n", wrong, strerror(errno));
	} else {
		make_group(&l.group, l.app.oom_group);
		code = run(&l);
	}
	note_line(l.record, "done %d %lld\n", code, now(CLOCK_REALTIME));
	return code;
}
