#!/bin/sh
# What env says is what a process sees, letter by letter.
echo 1..2
expected='it'\''s "quoted" & $(never run)'
[ "$GREETING" = "$expected" ] && echo "ok 1 - a value is text" || echo "not ok 1 - a value is text: $GREETING"
[ "$(id -u):$(pwd)" = 1500:/srv/web ] && echo "ok 2 - who and where" || echo "not ok 2 - who and where: $(id -u):$(pwd)"
