#!/bin/sh
# The server answers.
echo 1..1
python3 server.py 2> /dev/null &
server=$!
python3 - <<'PY' && echo "ok 1 - the page is served" || echo "not ok 1 - the page is served"
import os, time, urllib.request
for attempt in range(100):
    try:
        page = urllib.request.urlopen(f"http://127.0.0.1:{os.environ['PORT']}/").read()
        break
    except OSError:
        time.sleep(0.1)
raise SystemExit(page != b"<p>hello</p>\n")
PY
kill "$server"
