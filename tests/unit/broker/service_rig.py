"""The awaited face of the broker over a loopback cluster, for tests."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from falconq_cluster.broker.limits import BrokerLimits
from falconq_cluster.broker.requests import (
    Published,
    PublishRequest,
)
from falconq_cluster.broker.service import BrokerService
from falconq_cluster.errors import FalconQError
from falconq_cluster.machine.settings import TopicConfig
from falconq_cluster.machine.state import new_topic
from tests.unit.broker.loopback import START_MS, Loopback

T = TypeVar("T")


class Rig:
    """Services over a cluster that moves while they wait."""

    def __init__(self, *names: str, limits: BrokerLimits | None = None) -> None:
        self.cluster = Loopback(*names, leader="n1", limits=limits)
        loop = asyncio.get_running_loop()
        self.services = {name: BrokerService(node.broker, loop) for name, node in self.cluster.nodes.items()}
        self.cluster.settle()

    async def run(self, work: Coroutine[Any, Any, T], *, advance_ms: int = 0) -> T:
        task = asyncio.ensure_future(work)
        for _ in range(10):
            await asyncio.sleep(0)
            self.cluster.settle()
        if advance_ms:
            self.cluster.advance(advance_ms)
        async with asyncio.timeout(5):
            return await task

    def request(self, message: str = '"a"', **kwargs: Any) -> PublishRequest:
        fields: dict[str, Any] = {"topic": "t", "deadline_ms": self.cluster.clock.now_ms + 5_000} | kwargs
        return PublishRequest(message=message.encode(), **fields)

    async def publish(self, message: str = '"a"', node: str = "n1", **kwargs: Any) -> Published:
        return await self.run(self.services[node].publish(self.request(message, **kwargs)))

    async def refused(self, work: Coroutine[Any, Any, object], *, advance_ms: int = 0) -> str:
        with pytest.raises(FalconQError) as caught:
            await self.run(work, advance_ms=advance_ms)
        return caught.value.code.code

    def add_topic(self, name: str, config: TopicConfig) -> None:
        """A topic of another shape, on all nodes."""
        for node in self.cluster.nodes.values():
            topic = new_topic(name, 1 + len(node.machine.state.topics), START_MS, config, node.machine.state.held_count)
            node.machine.state.topics[name] = topic
