/* pouch-init: one small static program with several roles, chosen by its name or its first argument.
 *
 *   hold   pid 1 of a pod's shared pid namespace: it reaps, and ends on SIGTERM or SIGINT.
 *
 * It parses no foreign input and allocates nothing. */
#include <stdio.h>
#include <string.h>

#include "roles.h"

static const struct {
	const char *name;
	int (*run)(void);
} roles[] = {
	{"hold", hold},
};

/* base gives the part of a path behind its last slash, without a leading "pouch-". */
static const char *base(const char *path)
{
	const char *slash = strrchr(path, '/');
	const char *name = slash ? slash + 1 : path;

	return strncmp(name, "pouch-", 6) ? name : name + 6;
}

int main(int argc, char **argv)
{
	for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) {
		if (argc > 0 && !strcmp(base(argv[0]), roles[i].name))
			return roles[i].run();
		if (argc > 1 && !strcmp(argv[1], roles[i].name))
			return roles[i].run();
	}
	fputs("usage: pouch-init hold\n", stderr);
	return 2;
}
