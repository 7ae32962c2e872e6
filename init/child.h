#ifndef POUCH_CHILD_H
#define POUCH_CHILD_H

#include <signal.h>
#include <sys/types.h>

#include "app.h"

/* streams are the descriptors that an application without a terminal gets. */
struct streams {
	int in, out, err;
};

/* open_streams opens what the application reads and writes; it gives the path that failed, or NULL. */
const char *open_streams(const struct app *app, struct streams *s);

/* start_app runs the application and returns when it has been executed, or not: then it gives -1, *failed is what could not
 * be done, errno why. procs is a cgroup.procs to join, or NULL. mask is the signal mask that the application gets. */
pid_t start_app(const struct app *app, const struct streams *s, const char *procs, const sigset_t *mask, const char **failed);

#endif
