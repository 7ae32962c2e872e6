#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "rest.h"
#include "roles.h"

/* run becomes the command. A session of its own keeps what it sends to its process group away from us. */
static void run(char **argv, const sigset_t *mask)
{
	setsid();
	sigprocmask(SIG_SETMASK, mask, NULL);
	execvp(argv[0], argv);
	fprintf(stderr, "pouch-hook: %s: %s\n", argv[0], strerror(errno));
	_exit(errno == ENOENT || errno == ENOTDIR ? 127 : 126);
}

/* reap takes all zombies there are, and the command's code when it is among them; it says whether any child is left. */
static bool reap(pid_t command, bool *ended, int *code)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0 || (pid < 0 && errno == EINTR))
		if (pid == command) {
			*code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
			*ended = true;
		}
	return pid == 0;
}

int hook(int argc, char **argv)
{
	const struct timespec pause = {.tv_nsec = 5000000};
	bool ended = false, left = true;
	sigset_t all, before;
	int signal, code = 126;
	pid_t command;

	if (argc < 1) {
		fputs("usage: pouch-init hook COMMAND [ARGUMENT...]\n", stderr);
		return 126;
	}
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)) {
		perror("pouch-hook: become a reaper");
		return 126;
	}
	command = fork();
	if (command < 0) {
		perror("pouch-hook: fork");
		return 126;
	}
	if (!command)
		run(argv, &before);
	while (!ended) {
		signal = sigwaitinfo(&all, NULL);
		if (signal == SIGTERM || signal == SIGINT)
			kill(command, signal);
		left = reap(command, &ended, &code);
	}
	/* Children of what dies come to us in turn, and may have forked once more before. Without /proc they are the
	 * business of whoever has started us. */
	while (left && kill_children()) {
		sigtimedwait(&all, NULL, &pause);
		left = reap(command, &ended, &code);
	}
	return code;
}
