#!/bin/sh
# Python and pip are those of the virtual environment, and a package can be installed into it. Prints TAP.
echo 1..3
prefix=$(python3 -c 'import sys; print(sys.prefix)')
if [ "$prefix" = "$VIRTUAL_ENV" ]; then echo "ok 1 - python is the environment's"; else echo "not ok 1 - python is that of $prefix"; fi
case $(pip --version) in
  *"$VIRTUAL_ENV"*) echo "ok 2 - pip is the environment's" ;;
  *) echo "not ok 2 - pip is $(pip --version)" ;;
esac
cd "$(mktemp -d)" || exit 1
mkdir greeting
echo 'def greet(): return "hello"' > greeting/__init__.py
cat > setup.py <<'PY'
from setuptools import setup
setup(name="greeting", version="1", packages=["greeting"])
PY
if pip install --quiet --no-index --no-build-isolation . > install.log 2>&1 &&
  [ "$(cd / && python3 -c 'import greeting; print(greeting.greet())')" = hello ]; then
  echo "ok 3 - a package is installed and imported"
else
  sed 's/^/# /' install.log
  echo "not ok 3 - a package is installed and imported"
fi
