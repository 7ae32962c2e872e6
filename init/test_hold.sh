#!/bin/bash
# Tests of pouch-init hold, and of the choice of the role.
source "$(dirname "$0")/lib.sh"

code=0; "$init" nonsense 2>"$work/err" || code=$?
[ "$code" = 2 ] || fail "an unknown role exits with $code, not 2"
grep -q usage "$work/err" || fail "an unknown role prints no usage"

# waits until a process stands in sigwaitinfo: before, SIGTERM would be deadly (rt_sigtimedwait is 128 on x86-64, 137 on arm64)
waits() {
  for _ in $(seq 500); do
    case $(cat "/proc/$1/syscall" 2>/dev/null) in 128\ *|137\ *) return 0 ;; esac
    sleep 0.01
  done
  fail "process $1 does not come to wait for signals"
}

# ends SIGNAL COMMAND: it outlives other signals and exits with 0 on SIGNAL; as a plain process, by its name and by its argument
ends() {
  local signal=$1; shift
  "$@" & local pid=$!
  waits "$pid"
  kill -USR1 "$pid"; kill -HUP "$pid"
  kill -0 "$pid" || fail "$* does not outlive SIGUSR1"
  kill "-$signal" "$pid"
  local code=0; wait "$pid" || code=$?
  [ "$code" = 0 ] || fail "$* exits with $code on $signal"
}
ln -s pouch-init "$work/hold"
ends TERM "$init" hold
ends INT "$init" hold
ends TERM "$work/hold"

[ "$(id -u)" = 0 ] || { echo "SKIP: reaping as pid 1 needs root"; exit 0; }
# As pid 1: orphans are reaped, none stays a zombie.
unshare --pid --fork --kill-child --mount-proc "$init" hold & outer=$!
trap 'kill -9 "$outer" 2>/dev/null || true; rm -rf "$work"' EXIT
inner=
for _ in $(seq 500); do
  read -r inner < "/proc/$outer/task/$outer/children" || true
  [ -n "$inner" ] && [ "$(cat "/proc/$inner/comm" 2>/dev/null)" = pouch-init ] && break
  sleep 0.01
done
[ -n "$inner" ] || fail "no pid 1"
waits "$inner"
for _ in $(seq 20); do nsenter -t "$inner" -p -m sh -c 'sleep 0.01 & sleep 0.02 &'; done
zombies() { local n=0 s; for p in $(cat "/proc/$inner/task/$inner/children"); do s=$(awk '{print $3}' "/proc/$p/stat" 2>/dev/null || true); [ "$s" = Z ] && n=$((n + 1)); done; echo "$n"; }
for _ in $(seq 500); do [ -z "$(cat "/proc/$inner/task/$inner/children")" ] && break; sleep 0.01; done
[ -z "$(cat "/proc/$inner/task/$inner/children")" ] || fail "$(zombies) zombies are left"
kill -TERM "$inner"
code=0; wait "$outer" || code=$?
[ "$code" = 0 ] || fail "as pid 1 it exits with $code"
echo ok
