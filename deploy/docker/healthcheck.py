"""Exits 0 while the node in this container lives, which says nothing of a quorum: see /readyz for that."""

import os
import urllib.request

port = os.environ["FALCONQ_HTTP_ADDRESS"].rpartition(":")[2]
with urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=2):
    pass
