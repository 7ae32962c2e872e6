#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "app.h"

#define MAGIC "pouch-app 1"
enum { FILE_MAX = 32 << 20 };

/* number reads an unsigned number that fills text up to its end or a space. */
static bool number(const char **text, int base, unsigned long long *value)
{
	char *end;

	if (**text < '0' || **text > '9')
		return false;
	errno = 0;
	*value = strtoull(*text, &end, base);
	if (errno || (*end && *end != ' '))
		return false;
	*text = *end ? end + 1 : end;
	return true;
}

static bool id(const char *text, uint32_t *value)
{
	unsigned long long n;

	if (!number(&text, 10, &n) || *text || n >= UINT32_MAX)
		return false;
	*value = (uint32_t)n;
	return true;
}

static bool limit(const char *text, struct app *app)
{
	unsigned long long resource, soft, hard;

	if (app->limits_len == LIMITS_MAX || !number(&text, 10, &resource) || !number(&text, 10, &soft) || !number(&text, 10, &hard) || *text || resource > 64)
		return false;
	app->limits[app->limits_len].resource = (int)resource;
	app->limits[app->limits_len].value = (struct rlimit){(rlim_t)soft, (rlim_t)hard};
	app->limits_len++;
	return true;
}

static bool policy(const char *text, enum restart *restart)
{
	static const char *const names[] = {"no", "on-failure", "always"};

	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (!strcmp(text, names[i])) {
			*restart = (enum restart)i;
			return true;
		}
	return false;
}

static bool count(const char *text, int base, unsigned long long max, unsigned long long *value)
{
	return number(&text, base, value) && !*text && *value <= max;
}

/* field takes one field. The vectors have room for every field of the file. */
static bool field(struct app *app, char letter, char *value, size_t *args, size_t *vars)
{
	unsigned long long n;

	switch (letter) {
	case 'a': app->argv[(*args)++] = value; return true;
	case 'e': app->env[(*vars)++] = value; return strchr(value, '=') != NULL;
	case 'u': return id(value, &app->uid);
	case 'g': return id(value, &app->gid);
	case 's': return app->groups_len < GROUPS_MAX && id(value, &app->groups[app->groups_len++]);
	case 'd': app->dir = value; return *value == '/';
	case 'm': if (!count(value, 8, 0777, &n)) return false; app->mask = (long)n; return true;
	case 'l': return limit(value, app);
	case 'A': if (!count(value, 10, 63, &n)) return false; app->ambient |= (uint64_t)1 << n; return true;
	case 'p': app->no_new_privs = true; return !*value;
	case 'o': app->oom_group = true; return !*value;
	case '0': app->in = value; return *value == '/';
	case '1': app->out = value; return *value == '/';
	case '2': app->err = value; return *value == '/';
	case 't': app->tty = value; return *value == '/';
	case 'R': app->record = value; return *value == '/';
	case 'C': app->control = value; return *value == '/';
	case 'r': return policy(value, &app->restart);
	case 'n': if (!count(value, 10, RESTARTS_MAX, &n)) return false; app->restart_limit = (unsigned long)n; return true;
	case 'w': if (!count(value, 10, 86400000, &n)) return false; app->restart_wait = (unsigned long)n; return true;
	}
	return false;
}

/* slurp gives the file's bytes with a NUL behind, or NULL. */
static char *slurp(const char *path, size_t *len)
{
	struct stat st;
	char *text = NULL;
	size_t got = 0;
	ssize_t n = 0;
	int fd;

	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return NULL;
	if (!fstat(fd, &st) && S_ISREG(st.st_mode) && st.st_size > 0 && st.st_size <= FILE_MAX)
		text = malloc((size_t)st.st_size + 1);
	while (text && got < (size_t)st.st_size && ((n = read(fd, text + got, (size_t)st.st_size - got)) > 0 || (n < 0 && errno == EINTR)))
		got += n > 0 ? (size_t)n : 0;
	close(fd);
	if (!text || n < 0) {
		free(text);
		return NULL;
	}
	text[got] = 0;
	*len = got;
	return text;
}

const char *read_app(const char *path, struct app *app)
{
	size_t len, fields = 0, args = 0, vars = 0;
	char *text = slurp(path, &len);

	*app = (struct app){.mask = -1, .dir = "/"};
	if (!text)
		return "cannot be read";
	if (text[len - 1] || strcmp(text, MAGIC))
		return "is not of a known version";
	for (size_t i = 0; i < len; i++)
		fields += !text[i];
	app->argv = calloc(fields + 1, sizeof *app->argv);
	app->env = calloc(fields + 1, sizeof *app->env);
	app->groups = calloc(fields, sizeof *app->groups);
	if (!app->argv || !app->env || !app->groups)
		return "is too large for the memory";
	for (char *at = text + sizeof MAGIC; at < text + len; at += strlen(at) + 1)
		if (!field(app, *at, at + (*at != 0), &args, &vars))
			return "has a field that is not valid";
	return args ? NULL : "names no command";
}
