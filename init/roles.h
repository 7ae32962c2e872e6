/* The roles of pouch-init; each gives the program's exit code. */
#ifndef POUCH_ROLES_H
#define POUCH_ROLES_H

/* hold sleeps until SIGTERM or SIGINT and reaps whatever dies meanwhile. Other signals are blocked. As pid 1 its end
 * is the end of all processes of the namespace. */
int hold(void);

#endif
