#!/bin/sh
# Runs two halves of a suite at the same time, which nearly halves the wait: they sleep more than
# they work. Each half is COMMAND with one of the two values of OPTION; of --part, whoever is done
# takes the next file (conftest.py).
# side-by-side.sh SUITE OPTION FIRST SECOND COMMAND...
set -u

here=$(dirname "$0")
suite=$1 option=$2 first=$3 second=$4
shift 4
other=$(mktemp) || exit 1
PARTS_CLAIMED=$(mktemp -d) || exit 1
export PARTS_CLAIMED
trap 'rm -rf "$other" "$PARTS_CLAIMED"' EXIT

# What the shell starts beside itself would not hear Ctrl-C.
env --default-signal=INT setsid \
    "$here/alone" "$suite-$second" "$@" "$option" "$second" >"$other" 2>&1 &
beside=$!
trap 'kill -INT -- -$beside' INT TERM
"$here/alone" "$suite-$first" "$@" "$option" "$first"
status=$?
wait $beside
beside_status=$?
cat "$other"
[ "$status" -eq 0 ] && [ "$beside_status" -eq 0 ]
