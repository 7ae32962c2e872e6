#!/bin/bash
# Tests of pouch-init enter.
source "$(dirname "$0")/lib.sh"
ln -s pouch-init "$work/enter"
exec 3</dev/null

is 126 "$(code "$work/enter")" "without arguments"
is 126 "$(code "$work/enter" $$ /bin/true)" "without argv[0]"
is 126 "$(code "$work/enter" 0 /bin/true true)" "a process that is not there"
grep -q 'pouch-enter: open /proc/0/ns/' "$work/err" || fail "the error names no namespace"
is 0 "$(code "$work/enter" $$ /bin/true true)" "our own namespaces"
is 3 "$(code "$work/enter" $$ /bin/sh sh -c 'exit 3')" "the program's code"
is 137 "$(code "$init" enter $$ /bin/sh sh -c 'kill -KILL $$')" "a program that died of SIGKILL"
is 127 "$(code "$work/enter" $$ /does/not/exist x)" "a program that is not there"
grep -q 'pouch-enter: run /does/not/exist: No such file' "$work/err" || fail "the error names no program"
is 126 "$(code "$work/enter" $$ /etc/passwd x)" "what is no program"
is "named a b" "$("$work/enter" $$ /bin/sh named -c 'echo "$0" "$@"' named 'a b')" "arguments"

# Nothing happens before descriptor 3 is closed at the other end.
mkfifo "$work/go"
"$work/enter" $$ /bin/sh sh -c ': >"$0"' "$work/ran" 3<>"$work/go" & pid=$!
sleep 0.1; [ ! -e "$work/ran" ] || fail "it did not wait"
kill -KILL "$pid"; wait "$pid" 2>/dev/null || true
{ sleep 0.1; : >"$work/closing"; } | "$work/enter" $$ /bin/sh sh -c 'test -e "$0"' "$work/closing" 3<&0 || fail "it did not wait for the end"

[ "$(id -u)" = 0 ] || { echo "SKIP: the rest needs root"; exit 0; }
unshare --cgroup --ipc --uts --net --pid --fork --kill-child --mount-proc sleep 1000 & holder=$!
trap 'kill -KILL $holder 2>/dev/null; rm -rf "$work"' EXIT
eventually pgrep -P "$holder" sleep >/dev/null
pid=$(pgrep -P "$holder" sleep)
for kind in cgroup ipc uts net pid mnt; do
  is "$(readlink "/proc/$pid/ns/$kind")" "$("$work/enter" "$pid" /bin/readlink readlink "/proc/self/ns/$kind")" "namespace $kind"
done
disown "$holder"
unshare --user --mount sleep 1000 & user=$!
disown "$user"
trap 'kill -KILL $holder $user 2>/dev/null; rm -rf "$work"' EXIT
eventually grep -q sleep "/proc/$user/comm"
echo 0 100000 65536 >"/proc/$user/uid_map" && echo 0 100000 65536 >"/proc/$user/gid_map"
mkdir "$work/plain" && gcc -std=c11 -o "$work/plain/enter" *.c # the sanitizers need the host's rights
chmod 755 "$work" "$work/plain"
is "$(readlink "/proc/$user/ns/user") 0:0" "$("$work/plain/enter" "$user" /bin/sh sh -c 'echo "$(readlink /proc/self/ns/user) $(id -u):$(id -G)"' 2>&1)" "namespace user"
echo ok
