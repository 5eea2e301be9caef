"""Histories made by hand: each call is one line, each line one tick later."""

from __future__ import annotations

from typing import Any

from chaos.history import Event
from chaos.judge import Verdict, judge
from chaos.judging.coverage import Wants

TICK = 1_000_000
NODES = ("n1", "n2", "n3")


class Made:
    """A history in the making."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.now = 0
        self.kept: dict[tuple[str, int], list[list[int]]] = {}

    def add(self, e: Any, f: str, **fields: Any) -> Made:
        self.now += TICK
        self.events.append(Event(self.now, e, f, **fields))
        return self

    def wait(self, ms: int) -> Made:
        self.now += ms * TICK
        return self

    def publish(self, v: int, offset: int | None, p: int = 1, level: int = 0, **fields: Any) -> Made:
        """A publish that is answered with an offset, or (None) not at all."""
        self.add("invoke", "publish", p=p, v=v, level=level, topic="t", node="n1", **fields)
        if offset is None:
            return self.add("unknown", "publish", p=p)
        return self.add("ok", "publish", p=p, partition=0, offset=offset)

    def refuse(self, v: int) -> Made:
        self.add("invoke", "publish", p=1, v=v, level=0, topic="t", node="n1")
        return self.add("fail", "publish", p=1)

    def consume(self, rows: list[list[int]], attempt: int = -1, p: int = 9) -> Made:
        self.add("invoke", "consume", p=p, topic="t", consumer="c", node="n2", attempt=attempt)
        return self.add("ok", "consume", p=p, rows=rows)

    def pull(self, rows: list[list[int]], p: int = 9, lease_ms: int = 1000) -> Made:
        self.add("invoke", "pull", p=p, topic="t", consumer="w", node="n2", lease_ms=lease_ms)
        return self.add("ok", "pull", p=p, rows=rows)

    def release(self, p: int = 9, lost: list[int] | None = None, **what: list[int]) -> Made:
        self.add("invoke", "ack", p=p, topic="t", consumer="w", **what)
        return self.add("ok", "ack", p=p, lost=lost)

    def read(self, end: int, mode: str, p: int = 5, index: int = 0, minimum: int = -1) -> Made:
        self.add("invoke", "read", p=p, topic="t", node="n3", mode=mode, minimum=minimum)
        return self.add("ok", "read", p=p, index=index, rows=[[0, end]])

    def store(self, *values: int, node: str = "", topic: str = "t", first: int = 0, level: int = 0) -> Made:
        """What one node, or each, stores: these values from this offset on."""
        rows = [[first + place, value, level] for place, value in enumerate(values)]
        for name in [node] if node else NODES:
            self.add("info", "stored", node=name, topic=topic, partition=0, rows=rows)
        return self

    def verdict(self, **wants: int) -> Verdict:
        none = {"acknowledged_min": 0, "faults_min": 0, "overlap_min": 0}
        return judge(self.events, Wants(**(none | wants)))

    def codes(self) -> set[str]:
        return set(self.verdict().counts)
