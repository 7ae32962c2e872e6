#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "roles.h"

/* reap takes all zombies there are: one SIGCHLD may stand for many. */
static void reap(void)
{
	pid_t pid;

	do
		pid = waitpid(-1, NULL, WNOHANG);
	while (pid > 0 || (pid < 0 && errno == EINTR));
}

/* let_go closes what was inherited but stdio: a holder lives as long as its pod and must pin nothing. */
static void let_go(void)
{
	long limit = sysconf(_SC_OPEN_MAX);

	for (int fd = 3; fd < (limit > 0 && limit < 1024 ? limit : 1024); fd++)
		close(fd);
}

int hold(int argc, char **argv)
{
	sigset_t all;
	int signal;

	(void)argc;
	(void)argv;
	let_go();
	if (chdir("/")) {
		perror("pouch-init hold: chdir");
		return 1;
	}
	/* Blocked before the first reap, so that no SIGCHLD is lost between reap and wait. */
	sigfillset(&all);
	if (sigprocmask(SIG_SETMASK, &all, NULL)) {
		perror("pouch-init hold: sigprocmask");
		return 1;
	}
	for (;;) {
		reap();
		do
			signal = sigwaitinfo(&all, NULL);
		while (signal < 0 && errno == EINTR);
		if (signal < 0) {
			perror("pouch-init hold: sigwaitinfo");
			return 1;
		}
		if (signal == SIGTERM || signal == SIGINT)
			return 0;
	}
}
