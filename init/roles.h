/* The roles of pouch-init; each gets the arguments behind its name and gives the program's exit code. */
#ifndef POUCH_ROLES_H
#define POUCH_ROLES_H

/* hold sleeps until SIGTERM or SIGINT and reaps whatever dies meanwhile. Other signals are blocked. As pid 1 its end
 * is the end of all processes of the namespace. */
int hold(int argc, char **argv);

/* supervise is pid 1 of a container without an init of its own: it runs a command in a session of its own, passes every
 * signal on to that session, reaps orphans, and ends with the command's code (128+n for a signal n). */
int supervise(int argc, char **argv);

/* hook runs a container's hook and gives the command's code (128+n for a signal n, 127 if there is no such command, 126 if
 * it cannot be run). Whatever the command has left behind is killed and reaped before, so that neither a process nor a
 * zombie of it reaches the container's program. SIGTERM and SIGINT go to the command. */
int hook(int argc, char **argv);

/* enter runs a program in the namespaces of a process and gives its code as hook does. It waits first until descriptor 3 is
 * closed at the other end. The program's path is looked up in the process's mount namespace, from that one's root. */
int enter(int argc, char **argv);

/* launch runs a rich container's application as a service of whatever init the container has. See launch.c. */
int launch(int argc, char **argv);

#endif
