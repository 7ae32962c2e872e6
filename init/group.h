#ifndef POUCH_GROUP_H
#define POUCH_GROUP_H

#include <stdbool.h>

enum { GROUP_PATH = 4096 };

/* group is the cgroup of the application alone, below the launcher's. */
struct group {
	const char *procs; /* its cgroup.procs; NULL: there is none */
	char path[GROUP_PATH], members[GROUP_PATH + 16];
};

/* make_group makes the cgroup where cgroup v2 is delegated to us, so that the OOM killer and a restart can take all of the
 * application and nothing else. Elsewhere it does nothing: the application then stays in the launcher's. */
void make_group(struct group *g, bool oom_group);

/* group_oom_kills counts the processes of the cgroup that the OOM killer ended. */
unsigned long long group_oom_kills(const struct group *g);

/* empty_group kills what the application left behind. */
void empty_group(const struct group *g);

#endif
