"""Marks with `falconq.io/role` which pod leads.

What lives here: a loop that asks the nodes who leads and patches one label of three pods.
Rules: only the standard library, since nothing can be installed where it runs. A SIGTERM ends it at once. While nothing
is known, labels stay as they are; the experiments' faults may cut the labeller off, too.
Must not know: experiments.
"""

from __future__ import annotations

import json
import os
import signal
import ssl
import sys
import time
import urllib.request
from pathlib import Path

PODS = ("falconq-0", "falconq-1", "falconq-2")
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
PERIOD_SECONDS = 1.0
TIMEOUT_SECONDS = 2.0


def leader() -> str | None:
    """The node that leads in the highest term that any node knows."""
    best: tuple[int, str | None] = (0, None)
    for pod in PODS:
        try:
            with urllib.request.urlopen(
                f"http://{pod}.falconq-peers:8080/v1/cluster", timeout=TIMEOUT_SECONDS
            ) as answer:
                view = json.load(answer)
        except (OSError, ValueError):
            continue
        if view["leader"] is not None and view["term"] >= best[0]:
            best = (view["term"], view["leader"])
    return best[1]


def label(pod: str, role: str) -> None:
    """Patch the pod's label. Raises: OSError."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    namespace = (ACCOUNT / "namespace").read_text()
    request = urllib.request.Request(
        f"https://{host}:{port}/api/v1/namespaces/{namespace}/pods/{pod}",
        method="PATCH",
        data=json.dumps({"metadata": {"labels": {"falconq.io/role": role}}}).encode(),
        headers={
            "Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}",
            "Content-Type": "application/merge-patch+json",
        },
    )
    context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS, context=context):  # noqa: S310
        pass


def main() -> None:
    """Label again whenever the leader changes, and every minute, for pods that were made anew."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    known, turns = None, 0
    while True:
        now = leader()
        if now is not None and (now != known or turns % 60 == 0):
            try:
                for pod in PODS:
                    label(pod, "leader" if pod == now else "follower")
                known = now
            except OSError as error:
                print(f"labels were not changed: {error}", flush=True)  # noqa: T201
        turns += 1
        time.sleep(PERIOD_SECONDS)


if __name__ == "__main__":
    main()
