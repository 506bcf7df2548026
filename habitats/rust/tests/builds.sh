#!/bin/sh
# A new project is built, checked and run without a network. Prints TAP.
echo 1..3
cd "$(mktemp -d)" || exit 1
if cargo new --quiet --vcs none greeting && cd greeting && cargo build --quiet --offline; then
  echo "ok 1 - a new project is built"
else
  echo "not ok 1 - a new project is built"
fi
if [ "$(cargo run --quiet --offline)" = 'Hello, world!' ]; then echo "ok 2 - it runs"; else echo "not ok 2 - it runs"; fi
if cargo fmt --check && cargo clippy --quiet --offline; then
  echo "ok 3 - rustfmt and clippy have nothing to say"
else
  echo "not ok 3 - rustfmt and clippy have nothing to say"
fi
