#!/bin/sh
# Runs the tests of both releases at the same time, which halves the wait: they sleep more than
# they work. Arguments are those of pytest, which is the first word of them: side-by-side.sh pytest
set -u

here=$(dirname "$0")
other=$(mktemp)
trap 'rm -f "$other"' EXIT

"$@" -p no:cacheprovider -k d13 "$here" >"$other" 2>&1 &
"$@" -p no:cacheprovider -k "not d13" "$here"
first=$?
wait $!
second=$?
cat "$other"
[ "$first" -eq 0 ] && [ "$second" -eq 0 ]
