#ifndef POUCH_RECORD_H
#define POUCH_RECORD_H

/* The record is what the launcher tells the outside. Its lines:
 *
 *   begin                                  the launcher is there, and holds the lock
 *   start N PID NANOSECONDS                the N-th start; PID as the container sees it
 *   end N exit|signal CODE NANOSECONDS     its end; "oom" behind it: the OOM killer struck in its own cgroup
 *   failed N ERRNO STEP                    it could not be executed
 *   done CODE NANOSECONDS                  the last one that counts: the container's exit code
 *   unit NAME                              a watched unit of the init, or a component, has failed
 *
 * No more than 1 MiB of it is read. Starts and ends fit in 880 KiB (RESTARTS_MAX, app.h), so units get no more than 128 KiB. */
enum { RECORD_LINE = 256 };

/* note_line appends a line in one write, so that lines of others never mix with it. A record below 0 is none. */
void note_line(int record, const char *format, ...);

/* hold_record locks the record (fcntl(2), F_SETLK) until the process ends, however it ends, and says so in it: a launcher that
 * somebody has killed writes no last line, but its lock is gone. */
void hold_record(int record);

/* note_unit is what the init runs when a unit has failed; it gives the exit code. Each unit is noted eight times at most: a
 * timer's job may fail for months. */
int note_unit(const char *name);

#endif
