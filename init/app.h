/* What the launcher is to run, as the file that cri-pouch mounts says it. */
#ifndef POUCH_APP_H
#define POUCH_APP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

enum { LIMITS_MAX = 32, GROUPS_MAX = 65536, RESTARTS_MAX = 10000 };

enum restart { RESTART_NO, RESTART_ON_FAILURE, RESTART_ALWAYS };

struct app {
	char **argv, **env;
	uid_t uid;
	gid_t gid, *groups;
	size_t groups_len;
	const char *dir;
	long mask; /* umask; negative: as it is */
	struct { int resource; struct rlimit value; } limits[LIMITS_MAX];
	size_t limits_len;
	uint64_t ambient; /* capabilities, by bit */
	bool no_new_privs, oom_group;
	const char *in, *out, *err, *tty; /* paths; NULL: /dev/null */
	const char *record, *control;     /* paths; NULL: none */
	enum restart restart;
	unsigned long restart_limit, restart_wait; /* ms */
};

/* read_app reads the file. It gives NULL, or what is wrong with it. The strings live as long as the program.
 *
 * The file is a sequence of fields, each a letter, a value and a NUL, so that nothing needs quoting; the first is "pouch-app
 * 1". a ARGUMENT, e KEY=VALUE, u UID, g GID, s GID (supplementary), d FOLDER, m UMASK (octal), l RESOURCE SOFT HARD (numbers
 * of getrlimit(2)), A CAPABILITY (number, ambient), p (no_new_privs), o (the OOM killer takes all of the application), 0 1 2 t
 * PATH (streams, terminal), R PATH (record), C PATH (control), r no|on-failure|always, n COUNT, w MILLISECONDS (restarts). */
const char *read_app(const char *path, struct app *app);

#endif
