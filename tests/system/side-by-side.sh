#!/bin/sh
# Runs the tests of both releases at the same time, which halves the wait: they sleep more than
# they work. Arguments are those of pytest, which is the first word of them: side-by-side.sh pytest
set -u

here=$(dirname "$0")
other=$(mktemp) || exit 1
trap 'rm -f "$other"' EXIT

# What the shell starts beside itself would not hear Ctrl-C.
env --default-signal=INT setsid "$here/../alone" system-d13 "$@" --release d13 "$here" >"$other" 2>&1 &
beside=$!
trap 'kill -INT -- -$beside' INT TERM
"$here/../alone" system-d12 "$@" --release d12 "$here"
first=$?
wait $beside
second=$?
cat "$other"
[ "$first" -eq 0 ] && [ "$second" -eq 0 ]
