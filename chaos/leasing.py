"""Clients of a queue: publishers of jobs, and workers that lease them and settle them, or do not.

What lives here: pulls with a lease, and acks, nacks and rejects by chance; some leases are left to expire.
Rules: a lease that an ack was told is over is lost, not settled. What no answer told of is nobody's: it comes again
when its lease ends. In the end the queue is worked off, until nothing came for longer than a lease lasts.
Must not know: which fault is going on, what an anomaly is.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

from chaos.workloads import JOBS, JOBS_DEAD, PAUSE_SECONDS, TROUBLE_SECONDS, Clients

WORKERS = "workers"
LEASE_MS = 2000
PULLED_MAX = 10
NACK_DELAY_MS_MAX = 200
ACK_SHARE, NACK_SHARE, REJECT_SHARE = 0.7, 0.15, 0.05
"""What becomes of a delivery; the rest expires."""
QUIET_SECONDS = 2.5 * LEASE_MS / 1000


class Queue:
    """The topic of jobs, with its workers."""

    def __init__(self, clients: Clients, seed: int) -> None:
        self._clients = clients
        self._chance = random.Random(seed)  # noqa: S311
        self._leases: dict[str, int] = {}
        """A lease's id -> its number in the history."""

    def start(self, *, publishers: int, workers: int) -> None:
        """Begin to ask."""
        self._clients.note("info", "topic", topic=JOBS, mode="strict", detail=JOBS_DEAD)
        self._clients.go_on(self._produce, publishers)
        self._clients.go_on(self._work, workers)

    async def work_off(self) -> None:
        """Settle all that is left."""
        client = self._clients.new_client()
        last = time.monotonic()
        while time.monotonic() - last < QUIET_SECONDS:
            leases = await self._pull(client)
            if leases:
                await self._settle(client, {"acks": leases, "nacks": [], "rejects": []})
            if leases or leases is None:
                last = time.monotonic()
        self._clients.note("info", "drained", topic=JOBS, consumer=WORKERS)

    async def _produce(self, client: int) -> bool:
        kind, _ = await self._clients.publish(client, self._chance.randrange(2), JOBS)
        return kind == "ok"

    async def _work(self, client: int) -> bool:
        leases = await self._pull(client)
        wishes: dict[str, list[str]] = {"acks": [], "nacks": [], "rejects": []}
        for lease in leases or ():
            drawn = self._chance.random()
            for name, share in (("acks", ACK_SHARE), ("nacks", NACK_SHARE), ("rejects", REJECT_SHARE)):
                drawn -= share
                if drawn < 0:
                    wishes[name].append(lease)
                    break
        if any(wishes.values()):
            return await self._settle(client, wishes)
        await asyncio.sleep(PAUSE_SECONDS if leases else TROUBLE_SECONDS)
        return leases is not None

    async def _pull(self, client: int) -> list[str] | None:
        """Ids of leases, or None when there was no answer."""
        node = self._clients.any_node()
        self._clients.note("invoke", "pull", p=client, topic=JOBS, consumer=WORKERS, node=node, lease_ms=LEASE_MS)
        body = {"max": PULLED_MAX, "leaseMs": LEASE_MS, "waitMs": 100}
        path = f"/v1/topics/{JOBS}/consumers/{WORKERS}/pull"
        kind, answer, _ = await self._clients.ask("POST", node, path, json=body)
        if kind != "ok":
            self._clients.note(kind, "pull", p=client, detail=str(answer.get("detail", ""))[:100])
            await asyncio.sleep(TROUBLE_SECONDS)
            return None
        rows, leases = [], []
        for delivery in answer.get("deliveries", ()):
            lease = delivery["lease"]["id"]
            leases.append(lease)
            place = [delivery["partitionID"], delivery["offset"], delivery["message"], delivery["level"]]
            rows.append([*place, delivery["deliveryCount"], self._leases.setdefault(lease, len(self._leases))])
        self._clients.note("ok", "pull", p=client, rows=rows)
        return leases

    async def _settle(self, client: int, wishes: dict[str, list[str]]) -> bool:
        node = self._clients.any_node()
        numbers = {name: [self._leases[lease] for lease in leases] for name, leases in wishes.items()}
        self._clients.note("invoke", "ack", p=client, topic=JOBS, consumer=WORKERS, node=node, **numbers)
        body: dict[str, list[Any]] = {
            "ack": wishes["acks"],
            "nack": [{"id": lease, "delayMs": self._chance.randrange(NACK_DELAY_MS_MAX)} for lease in wishes["nacks"]],
            "reject": [{"id": lease, "reason": "drawn"} for lease in wishes["rejects"]],
        }
        path = f"/v1/topics/{JOBS}/consumers/{WORKERS}/ack"
        kind, answer, _ = await self._clients.ask("POST", node, path, json=body)
        lost = [self._leases[failed["id"]] for failed in answer["failed"]] if kind == "ok" else None
        self._clients.note(kind, "ack", p=client, lost=lost)
        return kind == "ok"
