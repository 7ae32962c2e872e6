#ifndef POUCH_REST_H
#define POUCH_REST_H

#include <stdbool.h>

/* kill_children sends SIGKILL to the processes that are ours: what a command left behind came to us as its reaper. It says
 * whether there was any. */
bool kill_children(void);

#endif
