# Sourced by the tests: builds pouch-init with the address and undefined behaviour sanitizers as $init, in $work.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
gcc -std=c11 -Wall -Wextra -Werror -g -fsanitize=address,undefined -fno-sanitize-recover=all -o "$work/pouch-init" *.c
init=$work/pouch-init
# LeakSanitizer uses ptrace, which a pid 1 cannot be subject to.
export ASAN_OPTIONS=detect_leaks=0

fail() { echo "FAIL: $*" >&2; exit 1; }

# code COMMAND...: runs it and prints its exit code
code() { local c=0; "$@" >"$work/out" 2>"$work/err" || c=$?; echo "$c"; }

# is WANT GOT WHAT
is() { [ "$1" = "$2" ] || fail "$3: $2 instead of $1"; }

# eventually COMMAND...: waits until it succeeds, for at most 5 s
eventually() {
  for _ in $(seq 500); do "$@" 2>/dev/null && return 0; sleep 0.01; done
  fail "this never came true: $*"
}
