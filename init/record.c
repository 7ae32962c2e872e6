#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "record.h"

#define UNIT_RECORD "/run/.pouch/record"
enum { UNIT_TIMES = 8, UNITS_MAX = 128 << 10, NAME_MAX_LEN = 200 };

void note_line(int record, const char *format, ...)
{
	char line[RECORD_LINE];
	va_list args;
	int n;

	va_start(args, format);
	n = vsnprintf(line, sizeof line, format, args);
	va_end(args);
	if (record < 0 || n <= 0)
		return;
	if (n >= (int)sizeof line) {
		n = sizeof line;
		line[n - 1] = '\n';
	}
	if (write(record, line, (size_t)n) != n)
		fprintf(stderr, "pouch-launch: record: %s\n", strerror(errno));
}

void hold_record(int record)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

	if (fcntl(record, F_SETLK, &lock))
		fprintf(stderr, "pouch-launch: lock the record: %s\n", strerror(errno));
	else
		note_line(record, "begin\n");
}

/* has_room says whether one failure more of the unit may be noted. */
static bool has_room(const char *name)
{
	char line[RECORD_LINE], own[RECORD_LINE];
	size_t units = 0;
	int times = 0;
	FILE *f = fopen(UNIT_RECORD, "re");

	if (!f)
		return true;
	snprintf(own, sizeof own, "unit %s\n", name);
	while (fgets(line, sizeof line, f)) {
		if (strncmp(line, "unit ", 5))
			continue;
		units += strlen(line);
		times += !strcmp(line, own);
	}
	fclose(f);
	return times < UNIT_TIMES && units + strlen(own) <= UNITS_MAX;
}

int note_unit(const char *name)
{
	int record;

	for (const char *c = name; *c; c++)
		if (*c < '!' || *c > '~' || c - name >= NAME_MAX_LEN) {
			fputs("pouch-launch: that is no name of a unit\n", stderr);
			return 2;
		}
	record = open(UNIT_RECORD, O_WRONLY | O_APPEND | O_CLOEXEC);
	if (record < 0) {
		perror("pouch-launch: " UNIT_RECORD);
		return 1;
	}
	if (has_room(name))
		note_line(record, "unit %s\n", name);
	return 0;
}
