#!/bin/sh
# The tools are there, and the project is a repository that its user can work in. Prints TAP.
echo 1..4

if git --version > /dev/null; then echo "ok 1 - git runs"; else echo "not ok 1 - git runs"; fi
if curl --version > /dev/null; then echo "ok 2 - curl runs"; else echo "not ok 2 - curl runs"; fi

branch=$(git -C /workspace/hello symbolic-ref --short HEAD)
if [ "$branch" = main ]; then
  echo "ok 3 - the project is on its main branch"
else
  echo "not ok 3 - the project is on its main branch, not on '$branch'"
fi

if [ "$(id -un)" = dev ] && [ "$EDITOR" = vi ]; then
  echo "ok 4 - the test runs as the user, with the habitat's environment"
else
  echo "not ok 4 - the test runs as $(id -un)"
fi
