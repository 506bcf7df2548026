#!/bin/sh
# Code is written, run and committed; nothing of the host is here. Prints TAP.
echo 1..4
cd "$(mktemp -d)" || exit 1
git init --quiet
echo 'print("hello")' > hello.py
git add hello.py
if git commit --quiet --message first && [ "$(git log --format=%an)" = agent ]; then
  echo "ok 1 - commits are the agent's"
else
  echo "not ok 1 - commits are the agent's"
fi
if [ "$(python3 hello.py)" = hello ]; then echo "ok 2 - code runs"; else echo "not ok 2 - code runs"; fi
if [ -z "$(env | grep -iE 'token|secret|password|ssh_auth_sock')" ]; then
  echo "ok 3 - no credential is in the environment"
else
  echo "not ok 3 - no credential is in the environment"
fi
if [ "$(id -un)" = agent ] && ! sudo -n true 2> /dev/null; then echo "ok 4 - the agent is nobody special"; else echo "not ok 4 - the agent is nobody special"; fi
