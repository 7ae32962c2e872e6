/* The roles of pouch-init; each gets the arguments behind its name and gives the program's exit code. */
#ifndef POUCH_ROLES_H
#define POUCH_ROLES_H

/* hold sleeps until SIGTERM or SIGINT and reaps whatever dies meanwhile. Other signals are blocked. As pid 1 its end
 * is the end of all processes of the namespace. */
int hold(int argc, char **argv);

/* supervise is pid 1 of a container without an init of its own: it runs a command in a session of its own, passes every
 * signal on to that session, reaps orphans, and ends with the command's code (128+n for a signal n). */
int supervise(int argc, char **argv);

/* launch runs a rich container's application as a service of whatever init the container has. See launch.c. */
int launch(int argc, char **argv);

#endif
