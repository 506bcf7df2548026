#!/bin/sh
# Every tool runs, and the user owns the place that it works in. Prints TAP.
tools="curl git jq less make rg ssh xz"
set -- $tools
echo 1..$(($# + 1))
number=0

for tool in "$@"; do
  number=$((number + 1))
  case $tool in ssh) version=-V ;; *) version=--version ;; esac
  if $tool $version > /dev/null 2>&1; then echo "ok $number - $tool runs"; else echo "not ok $number - $tool runs"; fi
done

if touch "$WORKDIR/.written" && rm "$WORKDIR/.written"; then
  echo "ok $((number + 1)) - $(id -un) can write to $WORKDIR"
else
  echo "not ok $((number + 1)) - $(id -un) can write to $WORKDIR"
fi
