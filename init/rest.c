#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <sys/types.h>

#include "rest.h"

bool kill_children(void)
{
	bool any = false;
	FILE *f = fopen("/proc/thread-self/children", "re");
	int pid;

	if (!f)
		return false;
	while (fscanf(f, "%d", &pid) == 1) {
		kill(pid, SIGKILL);
		any = true;
	}
	fclose(f);
	return any;
}
