#!/bin/sh
# A program runs, and npm installs a package of this machine for the user. Prints TAP.
echo 1..2
if [ "$(node -p '["he", "llo"].join("")')" = hello ]; then echo "ok 1 - node runs"; else echo "not ok 1 - node runs"; fi
cd "$(mktemp -d)" || exit 1
mkdir greeting
echo '{"name": "greeting", "version": "1.0.0", "bin": "greet.js"}' > greeting/package.json
printf '#!/usr/bin/env node\nconsole.log("hello")\n' > greeting/greet.js
chmod 755 greeting/greet.js
if npm install --global --offline --silent ./greeting > install.log 2>&1 && [ "$(greeting)" = hello ]; then
  echo "ok 2 - npm installs a program for the user"
else
  sed 's/^/# /' install.log
  echo "not ok 2 - npm installs a program for the user"
fi
