"""Leases as clients see them: pulls that lease, and what settles them.

What lives here: the lease pull, lease ids, and what a client's wishes are as one operation.
Rules: a lease id names the message's place and the nonce of the pull that handed it out, 128 random bits of the node
that proposed it (PROTOCOL.md P14): who has not seen it can't settle the message. Whatever is wrong with one lease is
said of that one alone, and the others are settled.
Must not know: when a poll proposes and waits; asyncio, HTTP.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from falconq_cluster.broker.broker import Broker
from falconq_cluster.broker.polls import Poll, PollOwner
from falconq_cluster.broker.reading import known_topic, leased_deliveries, level_of
from falconq_cluster.broker.requests import (
    Deliveries,
    FailedWish,
    LeaseWish,
    PullRequest,
    Settled,
    SettleRequest,
)
from falconq_cluster.errors import FalconQError
from falconq_cluster.machine.commands import (
    NO_DEADLINE,
    ClientOperation,
    Leased,
    LeasePull,
    LeaseSettled,
    Range,
    Result,
    Settle,
    SettleItem,
    SettleKind,
)
from falconq_cluster.machine.leasing import NONCE_BYTES
from falconq_cluster.machine.subscriptions import StreamKind
from falconq_cluster.machine.views import Views

_LEASE_ID = re.compile(rf"(0|[1-9][0-9]{{0,9}})\.(0|[1-9][0-9]{{0,18}})\.([0-9a-f]{{{2 * NONCE_BYTES}}})", re.ASCII)


class LeasePoll(Poll[Deliveries]):
    """One pull that leases, or settles what it gives at once."""

    __slots__ = ("_bytes_max", "_level_min", "_nonce", "_stream", "request")

    def __init__(
        self, owner: PollOwner, broker: Broker, request: PullRequest, done: Callable[[Deliveries | FalconQError], None]
    ) -> None:
        self.request = request
        self._level_min = 0
        most = broker.limits.pull_bytes_max
        self._bytes_max = most if request.bytes_max is None else min(request.bytes_max, most)
        self._nonce = broker.random_bytes(NONCE_BYTES) if request.stream is None else request.stream.nonce
        self._stream = StreamKind.NONE
        if request.stream is not None:
            self._stream = StreamKind.SHARED if request.stream.is_shared else StreamKind.ALONE
        super().__init__(
            owner,
            done,
            consumer=(request.topic, request.consumer),
            place=("lease", request.level_min, request.auto_commit, request.stream),
            count=request.count,
            until_ms=min(broker.clock.monotonic_ms() + request.wait_ms, request.deadline_ms),
            deadline_ms=request.deadline_ms,
        )

    def judge(self, views: Views) -> None:
        self._level_min = level_of(self.request.level_min, known_topic(views, self.request.topic).config.levels)
        if self._stream is StreamKind.ALONE and views.consumers.stream_of(*self.consumer) != self._nonce:
            raise self._replaced()

    def is_replaced_by(self, nonce: bytes) -> FalconQError | None:
        return self._replaced() if self._stream is StreamKind.ALONE and nonce != self._nonce else None

    def _replaced(self) -> FalconQError:
        return FalconQError("lease_lost", f"another event stream took consumer {self.request.consumer!r}")

    def available_count(self, views: Views, log_time_ms: int) -> int:
        return views.leasable_count(*self.consumer, self._level_min, log_time_ms)

    def takes_from(self, _other: Poll[Any]) -> bool:
        return True

    def operation(self) -> ClientOperation:
        request = self.request
        return LeasePull(
            not_after_ms=NO_DEADLINE,
            topic=request.topic,
            consumer=request.consumer,
            count_max=request.count,
            bytes_max=self._bytes_max,
            lease_ms=request.lease_ms or 0,
            level_min=self._level_min,
            nonce=self._nonce,
            in_flight_max=0,
            auto_commit=request.auto_commit,
            stream=self._stream,
        )

    def ranges(self, result: Result) -> list[Range]:
        return [found.messages for found in result.ranges] if isinstance(result, Leased) else []

    def answer(self, views: Views, result: Result | None, index: int) -> Deliveries:
        leased = result if isinstance(result, Leased) else None
        return leased_deliveries(views, self.request, leased, lease_id, index)


def lease_id(partition: int, offset: int, nonce: bytes) -> str:
    """What settles the message at this place while its lease lasts."""
    return f"{partition}.{offset}.{nonce.hex()}"


def read_lease_id(text: str) -> tuple[int, int, bytes] | None:
    """(partition, offset, nonce); None for what never was a lease's id."""
    match = _LEASE_ID.fullmatch(text)
    return None if match is None else (int(match[1]), int(match[2]), bytes.fromhex(match[3]))


class Settlement:
    """What a client wishes of its leases, and what became of each wish."""

    def __init__(self, request: SettleRequest, levels: Sequence[str]) -> None:
        self._request = request
        self._failed: dict[int, FailedWish] = {}
        self._places: list[int] = []
        """By item of the operation, the place of its wish."""
        self.items: list[SettleItem] = []
        for place, wish in enumerate(request.wishes):
            try:
                self.items.append(_item(wish, levels))
            except FalconQError as error:
                self._failed[place] = FailedWish(wish.lease_id, error.code.code, error.message)
            else:
                self._places.append(place)

    def operation(self) -> Settle:
        return Settle(NO_DEADLINE, self._request.topic, self._request.consumer, self.items)

    def settled(self, result: LeaseSettled | None, index: int) -> Settled:
        """The answer; None when there was nothing to propose."""
        for item, code, detail in [] if result is None else result.failed:
            place = self._places[item]
            self._failed[place] = FailedWish(self._request.wishes[place].lease_id, code, detail)
        failed = [self._failed[place] for place in sorted(self._failed)]
        return Settled(ok_count=len(self._request.wishes) - len(failed), failed=failed, index=index)


def _item(wish: LeaseWish, levels: Sequence[str]) -> SettleItem:
    """Raises: FalconQError (bad_request, unknown_priority)."""
    found = read_lease_id(wish.lease_id)
    if found is None:
        raise FalconQError("bad_request", "this is no lease id; a pull gives one with each message, as lease.id")
    partition, offset, nonce = found
    priority = -1 if wish.priority is None else level_of(wish.priority, levels)
    return SettleItem(SettleKind(wish.kind), partition, offset, nonce, wish.ms, priority, wish.reason)
