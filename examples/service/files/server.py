"""Serves the directory `site` on $PORT."""

import functools
import http.server
import os

handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory="site")
http.server.ThreadingHTTPServer(("", int(os.environ["PORT"])), handler).serve_forever()
