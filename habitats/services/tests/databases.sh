#!/bin/sh
# Both databases answer the user. Prints TAP.
echo 1..2
if [ "$(psql -Atc 'select current_user')" = dev ]; then echo "ok 1 - PostgreSQL knows the user"; else echo "not ok 1 - PostgreSQL knows the user"; fi
redis-cli -s "$REDIS_SOCKET" set greeting hello > /dev/null
if [ "$(redis-cli -s "$REDIS_SOCKET" get greeting)" = hello ]; then echo "ok 2 - Redis keeps a value"; else echo "not ok 2 - Redis keeps a value"; fi
