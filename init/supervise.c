#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "roles.h"

/* outside_group says whether pid belongs to the session but not to the process group that leads it. */
static bool outside_group(const char *pid, pid_t session)
{
	char path[64], text[512], *end;
	int group, sid;
	ssize_t n;
	int fd;

	snprintf(path, sizeof path, "/proc/%.20s/stat", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	n = read(fd, text, sizeof text - 1);
	close(fd);
	if (n <= 0)
		return false;
	text[n] = 0;
	end = strrchr(text, ')'); /* the name before it may hold anything */
	return end && sscanf(end + 1, " %*c %*d %d %d", &group, &sid) == 2 && sid == session && group != session;
}

/* signal_session signals the command's process group, then those of its session that made groups of their own. */
static void signal_session(pid_t session, int signal)
{
	DIR *proc;

	/* Nobody would ever continue a group that stops itself: its parent is outside of the session, so the kernel ignores
	 * the terminal's stop signals. SIGSTOP does what was meant. */
	if (signal == SIGTSTP || signal == SIGTTIN || signal == SIGTTOU)
		signal = SIGSTOP;
	kill(-session, signal);
	proc = opendir("/proc");
	if (!proc)
		return;
	for (struct dirent *e; (e = readdir(proc));)
		if (isdigit((unsigned char)e->d_name[0]) && outside_group(e->d_name, session))
			kill((pid_t)strtol(e->d_name, NULL, 10), signal);
	closedir(proc);
}

/* give_up_terminal lets the command take the terminal. The kernel tells the session that it lost it; that is not for the
 * command. */
static void give_up_terminal(void)
{
	const struct timespec now = {0};
	sigset_t lost;

	if (ioctl(STDIN_FILENO, TIOCNOTTY))
		return;
	sigemptyset(&lost);
	sigaddset(&lost, SIGHUP);
	sigaddset(&lost, SIGCONT);
	while (sigtimedwait(&lost, NULL, &now) > 0 || errno == EINTR)
		;
}

/* run becomes the command. Closing ready tells that its session is there. */
static void run(char **argv, const sigset_t *mask, int ready)
{
	setsid();
	close(ready);
	if (isatty(STDIN_FILENO))
		ioctl(STDIN_FILENO, TIOCSCTTY, 0);
	sigprocmask(SIG_SETMASK, mask, NULL);
	execvp(argv[0], argv);
	fprintf(stderr, "pouch-init: %s: %s\n", argv[0], strerror(errno));
	_exit(errno == ENOENT ? 127 : 126);
}

/* start starts the command; -1: that failed. It comes back when the session is there: a signal for it before that would reach
 * nobody. */
static pid_t start(char **argv, const sigset_t *mask)
{
	int ready[2];
	pid_t command;
	char c;

	if (pipe2(ready, O_CLOEXEC))
		return -1;
	command = fork();
	if (!command) {
		close(ready[0]);
		run(argv, mask, ready[1]);
	}
	close(ready[1]);
	while (command > 0 && read(ready[0], &c, 1) < 0 && errno == EINTR)
		;
	close(ready[0]);
	return command;
}

/* ended reaps all zombies there are and says whether the command is among them. */
static bool ended(pid_t command, int *code)
{
	bool over = false;
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0 || (pid < 0 && errno == EINTR))
		if (pid == command) {
			*code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
			over = true;
		}
	return over;
}

int supervise(int argc, char **argv)
{
	sigset_t all, before;
	int signal, code = 1;
	pid_t command;

	if (argc < 1) {
		fputs("usage: pouch-init init COMMAND [ARGUMENT...]\n", stderr);
		return 2;
	}
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	give_up_terminal();
	command = start(argv, &before);
	if (command < 0) {
		perror("pouch-init: fork");
		return 126;
	}
	for (;;) {
		signal = sigwaitinfo(&all, NULL);
		if (signal == SIGCHLD) {
			if (ended(command, &code))
				return code;
		} else if (signal > 0) {
			signal_session(command, signal);
		}
	}
}
