#!/bin/bash
# Tests of pouch-init init, as pid 1 of a pid namespace.
source "$(dirname "$0")/lib.sh"

is 2 "$(code "$init" init)" "without a command"
is 127 "$(code "$init" init /does/not/exist)" "a command that is not there"
grep -q '/does/not/exist: No such file' "$work/err" || fail "the error names no command"
is 126 "$(code "$init" init /etc/passwd)" "a command that is no program"
is 3 "$(code "$init" init sh -c 'exit 3')" "the command's code"
is 143 "$(code "$init" init sh -c 'kill -TERM $$')" "a command that died of SIGTERM"
ln -s pouch-init "$work/init"
is 5 "$(code "$work/init" sh -c 'exit 5')" "called as init"
is "$(printf 'a b\n%%s $HOME "x"')" "$("$init" init printf '%s' $'a b\n%s $HOME "x"')" "an argument with everything"

[ "$(id -u)" = 0 ] || { echo "SKIP: the rest needs root"; exit 0; }
as_pid1() { unshare --pid --fork --kill-child --mount-proc "$init" init "$@"; }

# 10,000 orphans leave no zombie: each sub-shell starts one and ends before it does.
cat >"$work/orphans.sh" <<'S'
i=0; while [ $i -lt 10000 ]; do (: &); i=$((i + 1)); done
n=0; while [ $n -lt 500 ]; do
  left=$(cat /proc/[0-9]*/stat 2>/dev/null | awk '{sub(/^.*\) /, "")} $1 == "Z"' | wc -l)
  [ "$left" = 0 ] && exit 0
  n=$((n + 1)); sleep 0.01
done
exit 1
S
is 0 "$(code as_pid1 sh "$work/orphans.sh")" "zombies are left"

# Signals reach the whole session: the command, a child, and a child in a process group of its own.
cat >"$work/session.py" <<'S'
import os, signal, sys, time
folder = sys.argv[1]
def wait(name):
    signal.signal(signal.SIGUSR1, lambda *_: (open(folder + "/" + name, "w").close(), os._exit(0) if name != "main" else None))
    open(folder + "/" + name + ".ready", "w").close()
    while True: time.sleep(10)
if os.fork() == 0: wait("child")
if os.fork() == 0: os.setpgid(0, 0); wait("group")
wait("main")
S
as_pid1 python3 "$work/session.py" "$work" & outer=$!
trap 'kill -9 "$outer" 2>/dev/null || true; rm -rf "$work"' EXIT
for name in main child group; do eventually test -e "$work/$name.ready"; done
inner=$outer # the shell, unshare, pid 1
until [ "$(cat "/proc/$inner/comm")" = pouch-init ]; do inner=$(cut -d' ' -f1 "/proc/$inner/task/$inner/children"); [ -n "$inner" ] || fail "no pid 1"; done
kill -USR1 $inner
for name in main child group; do eventually test -e "$work/$name"; done
kill -TERM $inner
c=0; wait "$outer" || c=$?
is 143 "$c" "the end of the command by SIGTERM"

# With a terminal the command owns it: job control works, and the loss of it does not reach the command.
cat >"$work/terminal.py" <<'S'
import os, pty, sys
code = pty.spawn(sys.argv[1:], lambda fd: os.read(fd, 1024))
sys.exit(os.waitstatus_to_exitcode(code))
S
is 0 "$(code as_pid1 true)" "the namespace"
is 7 "$(code python3 "$work/terminal.py" unshare --pid --fork --mount-proc setsid --ctty "$init" init python3 -c \
  'import os,sys; sys.exit(7 if os.tcgetpgrp(0) == os.getpgrp() and os.getsid(0) == os.getpid() else 8)')" "the terminal's owner"
# A signal as early as it can come reaches the command: as soon as it is blocked, and so kept for the command.
cat >"$work/early.py" <<'S'
import os, signal, subprocess, sys
for _ in range(200):
    p = subprocess.Popen([sys.argv[1], "init", "sleep", "20"])
    while True: # what it waits for it does not block (sigwaitinfo(2)): it has a child then
        blocked = [l.split()[1] for l in open(f"/proc/{p.pid}/status") if l.startswith("SigBlk")][0]
        if int(blocked, 16) >> 14 & 1 or open(f"/proc/{p.pid}/task/{p.pid}/children").read(): break
    p.send_signal(signal.SIGTERM)
    try: assert p.wait(5) == 143, p.returncode
    except subprocess.TimeoutExpired:
        p.kill()
        sys.exit("an early signal is lost")
S
is 0 "$(code /usr/bin/python3 "$work/early.py" "$init")" "$(cat "$work/err") early signals"
echo ok
