#!/bin/bash
# Tests of pouch-init hook.
source "$(dirname "$0")/lib.sh"
ln -s pouch-init "$work/hook"

is 126 "$(code "$work/hook")" "without a command"
is 127 "$(code "$work/hook" /does/not/exist)" "a command that is not there"
grep -q 'pouch-hook: /does/not/exist: No such file' "$work/err" || fail "the error names no command"
is 127 "$(code "$work/hook" /etc/passwd/x)" "a command below a file"
is 126 "$(code "$work/hook" /etc/passwd)" "a command that is no program"
grep -q 'pouch-hook: /etc/passwd: ' "$work/err" || fail "the error names no command that is no program"
is 0 "$(code "$work/hook" true)" "success"
is 3 "$(code "$work/hook" sh -c 'exit 3')" "the command's code"
is 137 "$(code "$work/hook" sh -c 'kill -KILL $$')" "a command that died of SIGKILL"
is 5 "$(code "$init" hook sh -c 'exit 5')" "called by its argument"
is $'a b\n%s $HOME "x"' "$("$work/hook" printf '%s' $'a b\n%s $HOME "x"')" "an argument with everything"

# A command that is called like a role is a command.
mkdir "$work/path"
for role in hold init hook launch; do printf '#!/bin/sh\necho %s "$@"\n' "$role" >"$work/path/$role"; chmod +x "$work/path/$role"; done
for role in hold init hook launch; do is "$role a" "$(PATH=$work/path "$work/hook" "$role" a)" "a command that is called $role"; done

# What the command leaves behind ends before its code is known, children of its children too, whatever they ignore.
cat >"$work/leave.sh" <<'S'
(trap '' TERM HUP INT; sleep 1000 & echo $! >>"$1"; exec sleep 1000) & echo $! >>"$1"
setsid sh -c 'setsid sleep 1000 & echo $! >>"$1"; exec sleep 1000' sh "$1" & echo $! >>"$1"
while [ "$(wc -l <"$1")" -lt 4 ]; do :; done
exit 9
S
: >"$work/left"
is 9 "$(code "$work/hook" sh "$work/leave.sh" "$work/left")" "a command with leftovers"
is 4 "$(wc -l <"$work/left")" "leftovers"
while read -r pid; do [ ! -e "/proc/$pid" ] || fail "process $pid has stayed"; done <"$work/left"

# One that forks on and on, faster than one look takes.
cat >"$work/forks.py" <<'S'
import os, time
for _ in range(5):
    if os.fork() == 0:
        os.setsid()
        end = time.time() + 30
        while time.time() < end:
            if os.fork(): os._exit(0)
        os._exit(0)
S
is 0 "$(code timeout 60 "$work/hook" python3 "$work/forks.py")" "a command that leaves what forks on"
! pgrep -f "$work/forks.py" >/dev/null || fail "something that forks on has stayed"

# Orphans leave no zombie while the command runs.
cat >"$work/zombies.py" <<'S'
import os, time
for _ in range(50):
    if os.fork() == 0:
        if os.fork() == 0: time.sleep(0.01)
        os._exit(0)
    os.wait()
me = os.getppid()
def left(): return open(f"/proc/{me}/task/{me}/children").read().split() != [str(os.getpid())]
for _ in range(500):
    if not left(): os._exit(0)
    time.sleep(0.01)
os._exit(1)
S
is 0 "$(code "$work/hook" python3 "$work/zombies.py")" "zombies are left"

# Signals: SIGTERM and SIGINT reach the command, others nobody; what it sends to its own group does not end us.
for signal in TERM INT; do
  rm -f "$work/up"
  "$work/hook" python3 -c '
import os, signal, sys
def end(n, _): os._exit(40 + n)
signal.signal(signal.SIGTERM, end); signal.signal(signal.SIGINT, end)
open(sys.argv[1], "w").close()
while True: signal.pause()' "$work/up" & pid=$!
  eventually test -e "$work/up"
  kill -USR1 "$pid"; kill -HUP "$pid"; kill "-$signal" "$pid"
  c=0; wait "$pid" || c=$?
  is $((40 + $(kill -l "$signal"))) "$c" "SIG$signal"
done
is 137 "$(code "$work/hook" sh -c 'kill -KILL 0')" "a command that kills its own process group"

[ "$(id -u)" = 0 ] || { echo "SKIP: the rest needs root"; exit 0; }
is 7 "$(code unshare --pid --fork --kill-child --mount-proc "$work/hook" sh -c 'sleep 1000 & exit 7')" "as pid 1"
# The sanitizers themselves need /proc.
mkdir "$work/plain" && gcc -std=c11 -o "$work/plain/hook" *.c
is 6 "$(code unshare --mount sh -c 'mount -t tmpfs none /proc && exec "$0" sh -c "exit 6"' "$work/plain/hook")" "without /proc"
echo ok
