#!/bin/bash
# Tests of pouch-init launch.
source "$(dirname "$0")/lib.sh"
ln -s pouch-init "$work/launch"
touch "$work/record"

# app FIELD...: writes the file that says what to run, with a record
app() { printf '%s\0' 'pouch-app 1' "R$work/record" "$@" >"$work/app"; : >"$work/record"; }
launched() { code "$work/launch" "$work/app"; }
record() { sed -E 's/ [0-9]{16,}$//; s/^(start [0-9]+) .*/\1/; /^begin$/d' "$work/record" | paste -sd, ; }

# The exact words, and nothing else.
mkfifo "$work/fifo"
awkward=$'a b\t"c" \'d\' %s $HOME \\ \n\xff\xfe'
cat >"$work/show.py" <<'S'
import os, sys
out = os.environb[b"OUT"]
with open(out, "wb") as f:
    for a in sys.argv[1:]: f.write(os.fsencode(a) + b"\0")
    f.write(b"--\0")
    for k in sorted(os.environb): f.write(k + b"=" + os.environb[k] + b"\0")
S
app a/usr/bin/python3 "a$work/show.py" "a$awkward" a "eOUT=$work/shown" "eZ=$awkward" eEMPTY= eLC_ALL=C.UTF-8
is 0 "$(launched)" "a command with awkward words"
printf '%s\0' "$awkward" '' -- EMPTY= LC_ALL=C.UTF-8 "OUT=$work/shown" "Z=$awkward" | cmp - "$work/shown" || fail "words or environment differ"
is "start 1,end 1 exit 0,done 0" "$(record)" "the record"
is begin "$(head -n 1 "$work/record")" "the first line of the record"

# Exit codes, signals, what cannot be executed.
app ash a-c 'aexit 42' ePATH=/bin;             is 42 "$(launched)" "an exit code"
app ash a-c 'akill -9 $$' ePATH=/bin;          is 137 "$(launched)" "a signal"
is "start 1,end 1 signal 9,done 137" "$(record)" "the record of a signal"
app a/does/not/exist;                          is 127 "$(launched)" "a missing program"
is "failed 1 2 exec,done 127" "$(record)" "the record of a missing program"
grep -q '/does/not/exist: exec: No such file' "$work/err" || fail "the error does not say what failed"
app a/etc/passwd rno;                          is 126 "$(launched)" "no program"
app ash ePATH=/nowhere;                        is 127 "$(launched)" "a PATH without it: the application's counts, not ours"
app apwd ePATH=/bin "d$work/made/by us" "1$work/o"; : >"$work/o"; is 0 "$(launched)" "a folder that was missing"
is "$work/made/by us" "$(cat "$work/o")" "the folder that was made"
app a/bin/true d/proc/does/not/exist;          is 127 "$(launched)" "a folder that cannot be"
grep -q 'failed 1 2 folder' "$work/record" || fail "the record does not name the folder"

# Streams, folder, umask, limits.
app ash a-c 'acat; echo err >&2; pwd; umask; ulimit -n' ePATH=/bin d/usr m0137 'l7 100 200' "0$work/in" "1$work/o" "2$work/e"
echo typed >"$work/in"; : >"$work/o"; : >"$work/e"
is 0 "$(launched)" "streams"
is "typed,/usr,0137,100" "$(paste -sd, "$work/o")" "stdout"
is "err" "$(cat "$work/e")" "stderr"

# Restarts: as declared, bounded, the last code counts.
count="echo x >>$work/count"
run_restarts() { rm -f "$work/count"; app ash a-c "a$count; $1" ePATH=/bin "r$2" n3 w1; launched; }
is 9 "$(run_restarts 'exit 9' on-failure)" "a crash loop"; is 4 "$(wc -l <"$work/count")" "starts of a crash loop"
is 0 "$(run_restarts 'exit 0' on-failure)" "a success";    is 1 "$(wc -l <"$work/count")" "starts of a success"
is 0 "$(run_restarts 'exit 0' always)" "always";           is 4 "$(wc -l <"$work/count")" "starts with always"
is 3 "$(run_restarts 'exit 3' no)" "no restart";           is 1 "$(wc -l <"$work/count")" "starts without restart"

# Control: a stop ends it in a pause too, a signal alone does not forbid restarts; what is malformed is not obeyed.
mkfifo "$work/control"
trapping='trap "echo got >>'$work'/got; exit 4" USR1; echo up >>'$work'/up; while :; do sleep 0.05; done'
begin() { rm -f "$work/up" "$work/got"; app ash a-c "a$1" ePATH=/bin "C$work/control" ralways n5 "w$2"; "$work/launch" "$work/app" & pid=$!; }
ups() { [ "$(wc -l <"$work/up")" -ge "$1" ]; }
end() { local c=0; wait "$pid" || c=$?; echo "$c"; }
begin "$trapping" 1
eventually ups 1
printf 'nonsense\nstop\nsignal 900\nsignal 10\n' >"$work/control"
eventually ups 2
is 1 "$(wc -l <"$work/got")" "signals that arrived"
echo 'stop 10' >"$work/control"
c=0; wait "$pid" || c=$?; is 4 "$c" "a stop by control"
is "start 1,end 1 exit 4,start 2,end 2 exit 4,done 4" "$(record)" "the record of a stop"
begin "echo up >>$work/up; exit 6" 100000
eventually grep -q '^end' "$work/record"
echo 'stop 15' >"$work/control"
c=0; wait "$pid" || c=$?; is 6 "$c" "a stop in the pause"
# The lock is there while the launcher is, and no longer.
locked() { python3 -c 'import fcntl,struct,sys
f = open(sys.argv[1])
sys.exit(struct.unpack("hhqqi4x", fcntl.fcntl(f, fcntl.F_GETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, 0, 0, 0)))[0] != fcntl.F_WRLCK)' "$work/record"; }
begin "$trapping" 1
eventually ups 1
locked || fail "the record is not locked"
kill -KILL "$pid"; wait "$pid" || true
! locked || fail "the record of a killed launcher is locked"
kill -KILL "$(awk '$1 == "start" {print $3}' "$work/record")"
# What an init sends.
begin "$trapping" 1
eventually ups 1
kill -TERM "$pid"
c=0; wait "$pid" || c=$?; is 143 "$c" "SIGTERM from the init"
# A stop that came before the start.
exec 9<>"$work/control"
echo 'stop 15' >&9
begin "echo up >>$work/up" 1
c=0; wait "$pid" || c=$?; is 143 "$c" "a stop before the start"
exec 9>&-
is "done 143" "$(record)" "the record of a stop before the start"

# Files that are no description.
bad() { printf "$@" >"$work/app"; is 126 "$(launched)" "a bad file"; grep -q "pouch-launch: $work/app" "$work/err" || fail "the error names no file"; }
bad ''; bad 'pouch-app 2\0a/bin/true\0'; bad 'pouch-app 1\0'; bad 'pouch-app 1\0a/bin/true'; bad 'pouch-app 1\0\0'
for field in x u-1 u4294967295 u1x 'l1 2' 'l99 1 1' A64 enovalue drelative 0relative m888 m7777 rmaybe n9999999999 w-1 p1; do
  bad 'pouch-app 1\0a/bin/true\0%s\0' "$field"
done
is 126 "$(code "$work/launch" "$work/fifo")" "a FIFO instead of a file"
is 126 "$(code "$work/launch" /nowhere)" "no file"

[ "$(id -u)" = 0 ] || { echo "SKIP: the rest needs root"; exit 0; }
app ash a-c 'aid -u; id -g; id -G; grep CapEff /proc/self/status; grep NoNewPrivs /proc/self/status' ePATH=/bin:/usr/bin u1234 g2345 s3456 s4567 A10 p "1$work/o"
: >"$work/o"; is 0 "$(launched)" "a user"
is $'1234\n2345\n2345 3456 4567\nCapEff:\t0000000000000400\nNoNewPrivs:\t1' "$(cat "$work/o")" "user, groups, capabilities"
app ash a-c 'agrep CapEff /proc/self/status' ePATH=/bin:/usr/bin u1234 g1234 "1$work/o"
: >"$work/o"; launched >/dev/null; is $'CapEff:\t0000000000000000' "$(cat "$work/o")" "capabilities of a plain user"

# Orphans of the application come to the launcher and are no zombies.
app a/usr/bin/python3 a-c aimport\ os,time$'\n''for i in range(50):
    if os.fork()==0:
        if os.fork()==0: time.sleep(0.01)
        os._exit(0)
    os.wait()
time.sleep(0.3)
me=os.getppid()
zombies=[p for p in open(f"/proc/{me}/task/{me}/children").read().split() if open(f"/proc/{p}/stat").read().rsplit(")",1)[1].split()[0]=="Z"]
os._exit(len(zombies))' ePATH=/bin
is 0 "$(launched)" "zombies of the application"
# What the application leaves behind ends with it, children of its children too, whatever they ignore.
cat >"$work/leave.sh" <<'S'
(trap '' TERM; sleep 1000 & echo $! >>"$1"; exec sleep 1000) & echo $! >>"$1"
setsid sh -c 'sleep 1000 & echo $! >>"$1"; exec sleep 1000' sh "$1" &
while [ "$(wc -l <"$1")" -lt 3 ]; do :; done
S
: >"$work/left"
app ash "a$work/leave.sh" "a$work/left" ePATH=/bin:/usr/bin
is 0 "$(launched)" "an application with leftovers"
is 3 "$(wc -l <"$work/left")" "leftovers"
for pid in $(cat "$work/left"); do [ ! -e "/proc/$pid" ] || fail "process $pid has stayed"; done
is 2 "$(code "$work/launch" unit $'a\nb')" "a unit with a line in its name"
echo ok
