/* pouch-init: one small static program with several roles, chosen by its name or its first argument.
 *
 *   hold    pid 1 of a pod's shared pid namespace: it reaps, and ends on SIGTERM or SIGINT.
 *   init    pid 1 of a container in dumb-init mode: init COMMAND [ARGUMENT...]
 *   hook    runs a container's hook: hook COMMAND [ARGUMENT...]
 *   enter   runs a program in the namespaces of a process: enter PID PROGRAM ARGV0 [ARGUMENT...]
 *   true    ends with 0: the program of a container in which hooks are tried, whatever its image has
 *   launch  runs a rich container's application under a real init: launch [FILE], launch unit NAME
 */
#include <stdio.h>
#include <string.h>

#include "roles.h"

static int nothing(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	return 0;
}

static const struct {
	const char *name;
	int (*run)(int argc, char **argv);
} roles[] = {
	{"hold", hold},
	{"init", supervise},
	{"hook", hook},
	{"enter", enter},
	{"true", nothing},
	{"launch", launch},
};

/* base gives the part of a path behind its last slash, without a leading "pouch-"; nothing for the program's own name. */
static const char *base(const char *path)
{
	const char *slash = strrchr(path, '/');
	const char *name = slash ? slash + 1 : path;

	if (!strcmp(name, "pouch-init"))
		return "";
	return strncmp(name, "pouch-", 6) ? name : name + 6;
}

int main(int argc, char **argv)
{
	/* The name comes first: what follows it may be a command that is called like a role. */
	for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
		if (argc > 0 && !strcmp(base(argv[0]), roles[i].name))
			return roles[i].run(argc - 1, argv + 1);
	for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
		if (argc > 1 && !strcmp(argv[1], roles[i].name))
			return roles[i].run(argc - 2, argv + 2);
	fputs("usage: pouch-init hold | init COMMAND [ARGUMENT...] | hook COMMAND [ARGUMENT...] | enter PID PROGRAM ARGV0 [ARGUMENT...] | launch [FILE] | launch unit NAME\n", stderr);
	return 2;
}
