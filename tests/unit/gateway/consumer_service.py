"""The part of the recording service that is about consumers.

What lives here: answers that are always the same, and what was asked.
Rules: as in rig.py.
Must not know: how the gateway works.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from falconq_cluster.broker.consumer_requests import ConsumerInfo, ConsumerRequest, RedriveInfo, SeekRequest
from falconq_cluster.errors import FalconQError
from falconq_cluster.machine.consumer_views import ConsumerView
from falconq_cluster.machine.subscriptions import ConsumerConfig

TIME_MS = 1_767_225_600_123
VIEW = ConsumerView(
    "billing", TIME_MS, ConsumerConfig(), False, TIME_MS + 60_000, [3, 1], [TIME_MS, None], 2, 1, [2, 0]
)
INFO = ConsumerInfo(topic="orders", levels=("low", "high"), view=VIEW, log_time_ms=TIME_MS + 5_000, index=21)


class RecordingConsumers:
    """Answers every request about consumers the same way."""

    def __init__(self) -> None:
        self.asked: list[object] = []
        self.refusal: FalconQError | None = None
        self.is_made = True

    def _take(self, *asked: object) -> None:
        self.asked.append(asked[0] if len(asked) == 1 else asked)
        if self.refusal is not None:
            raise self.refusal

    def _shown(self, topic: str, consumer: str, config: ConsumerConfig = VIEW.config) -> ConsumerInfo:
        return replace(INFO, topic=topic, view=replace(VIEW, name=consumer, config=config))

    async def set_consumer(self, request: ConsumerRequest) -> ConsumerInfo:
        self._take(request)
        return replace(self._shown(request.topic, request.consumer, request.config), is_new=self.is_made)

    async def delete_consumer(self, topic: str, consumer: str, *, deadline_ms: int) -> int:
        self._take("delete", topic, consumer)
        return 22

    async def seek_consumer(self, request: SeekRequest) -> ConsumerInfo:
        self._take(request)
        return self._shown(request.topic, request.consumer)

    async def pause_consumer(self, topic: str, consumer: str, *, is_paused: bool, deadline_ms: int) -> ConsumerInfo:
        self._take("pause" if is_paused else "resume", topic, consumer)
        return self._shown(topic, consumer)

    async def consumer(self, topic: str, consumer: str) -> ConsumerInfo:
        self._take("get", topic, consumer)
        return self._shown(topic, consumer)

    async def consumers_after(self, topic: str, after: str, limit: int) -> tuple[Sequence[ConsumerInfo], bool]:
        self._take("list", topic, after, limit)
        names = [name for name in ("a", "b", "billing") if name > after]
        return [self._shown(topic, name) for name in names[:limit]], len(names) > limit

    async def redrive(self, topic: str, *, count_max: int, deadline_ms: int) -> RedriveInfo:
        self._take("redrive", topic, count_max)
        return RedriveInfo(topic=topic, dead_letter_topic=f"{topic}.dead", count=7, index=23)
