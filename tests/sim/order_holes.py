"""Holes in the rules of consumers with an order, of consumers as resources, and of event streams, for `ablations.py`.

What lives here: what stands in the place of a rule while a hole is open.
Rules: those of machine_holes.py.
Must not know: seeds, the log.
"""

from __future__ import annotations

from typing import Any

import msgspec

from falconq_cluster.machine import machine as machine_module
from falconq_cluster.machine import managing, reaping
from falconq_cluster.machine.consumers import put_in_hand
from falconq_cluster.machine.lanes import Lanes
from falconq_cluster.machine.leasing import lease_pull
from falconq_cluster.machine.managing import manage_consumer
from falconq_cluster.machine.ordering import Gate
from falconq_cluster.machine.state import ConsumerState
from falconq_cluster.machine.streaming import open_stream
from falconq_cluster.machine.subscriptions import PauseConsumer, StreamKind
from tests.sim.machine_holes import Patches


def gives_a_lane_twice() -> Patches:
    return [(Gate, "lets", lambda self, lane, priority, place: True)]


def frees_a_lane_by_a_nack() -> Patches:
    enter = Lanes.enter

    def opened(self: Lanes, place: Any, row: Any) -> None:
        if row.is_aside or row.nonce:
            enter(self, place, row)
        else:
            self.leave(place, row)

    return [(Lanes, "enter", opened)]


def holds_no_barrier() -> Patches:
    return [(Gate, "is_open", lambda self, partition, level: True)]


def gives_to_the_paused() -> Patches:
    def opened(turn: Any, operation: Any) -> Any:
        if isinstance(operation, PauseConsumer):
            operation = msgspec.structs.replace(operation, is_paused=False)
        return manage_consumer(turn, operation)

    return [(machine_module, "manage_consumer", opened)]


def seeks_with_its_leases() -> Patches:
    seek = managing._seek

    def opened(turn: Any, topic: Any, consumer: ConsumerState, operation: Any) -> Any:
        kept = [(held.partition, held.offset, held.row) for held in consumer.holdings if held.row.nonce]
        result = seek(turn, topic, consumer, operation)
        moved = topic.consumers[consumer.name]
        if moved is not consumer:
            for partition, offset, row in kept:
                put_in_hand(turn, topic, moved, (partition, offset), row)
        return result

    return [(managing, "_seek", opened)]


def expires_early() -> Patches:
    def opened(consumer: ConsumerState, now_ms: int) -> bool:
        after_ms = consumer.config.expire_after_ms // 2
        return 0 < after_ms <= now_ms - consumer.used_ms and not consumer.holdings.is_leased_at(now_ms)

    return [(reaping, "is_abandoned", opened)]


def acknowledges_one_too_many() -> Patches:
    def opened(turn: Any, operation: Any) -> Any:
        topic = turn.state.topics.get(operation.topic)
        consumer = None if topic is None else topic.consumers.get(operation.consumer)
        number = operation.acked_number
        if number and consumer is not None and number < consumer.delivery_number:
            operation = msgspec.structs.replace(operation, acked_number=number + 1)
        return open_stream(turn, operation)

    return [(machine_module, "open_stream", opened)]


def goes_on_when_replaced() -> Patches:
    def opened(turn: Any, operation: Any) -> Any:
        if operation.stream is StreamKind.ALONE:
            operation = msgspec.structs.replace(operation, stream=StreamKind.SHARED)
        return lease_pull(turn, operation)

    return [(machine_module, "lease_pull", opened)]


def counts_anew_after_a_seek() -> Patches:
    seek = managing._seek

    def opened(turn: Any, topic: Any, consumer: ConsumerState, operation: Any) -> Any:
        result = seek(turn, topic, consumer, operation)
        topic.consumers[consumer.name].delivery_number = 0
        return result

    return [(managing, "_seek", opened)]
