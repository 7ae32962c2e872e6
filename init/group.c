#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "group.h"

#define ROOT "/sys/fs/cgroup"

static bool put(const char *folder, const char *file, const char *text)
{
	char path[GROUP_PATH + 64];
	bool ok;
	int fd;

	if (snprintf(path, sizeof path, "%s/%s", folder, file) >= (int)sizeof path)
		return false;
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	ok = write(fd, text, strlen(text)) == (ssize_t)strlen(text);
	close(fd);
	return ok;
}

/* own gives our cgroup of the v2 hierarchy, if that is the one that is mounted. */
static bool own(char *path, size_t size)
{
	char line[GROUP_PATH];
	bool found = false;
	FILE *f;

	if (access(ROOT "/cgroup.controllers", F_OK))
		return false;
	f = fopen("/proc/self/cgroup", "re");
	if (!f)
		return false;
	while (!found && fgets(line, sizeof line, f)) {
		line[strcspn(line, "\n")] = 0;
		if (!strncmp(line, "0::/", 4))
			found = snprintf(path, size, ROOT "%s", strcmp(line + 3, "/") ? line + 3 : "") < (int)size;
	}
	fclose(f);
	return found;
}

void make_group(struct group *g, bool oom_group)
{
	char base[GROUP_PATH - 32], mine[GROUP_PATH];

	g->procs = NULL;
	if (!own(base, sizeof base))
		return;
	snprintf(mine, sizeof mine, "%s/launch", base);
	snprintf(g->path, sizeof g->path, "%s/app", base);
	/* A cgroup that hands controllers down may hold no process itself: the launcher moves aside. */
	if ((mkdir(mine, 0755) && errno != EEXIST) || !put(mine, "cgroup.procs", "0"))
		return;
	put(base, "cgroup.subtree_control", "+memory");
	if (mkdir(g->path, 0755) && errno != EEXIST)
		return;
	if (oom_group)
		put(g->path, "memory.oom.group", "1");
	snprintf(g->members, sizeof g->members, "%s/cgroup.procs", g->path);
	g->procs = g->members;
}

unsigned long long group_oom_kills(const struct group *g)
{
	char path[GROUP_PATH + 64], key[64];
	unsigned long long value, kills = 0;
	FILE *f;

	if (!g->procs)
		return 0;
	snprintf(path, sizeof path, "%s/memory.events", g->path);
	f = fopen(path, "re");
	if (!f)
		return 0;
	while (fscanf(f, "%63s %llu", key, &value) == 2)
		if (!strcmp(key, "oom_kill"))
			kills = value;
	fclose(f);
	return kills;
}

void empty_group(const struct group *g)
{
	if (g->procs)
		put(g->path, "cgroup.kill", "1");
}
