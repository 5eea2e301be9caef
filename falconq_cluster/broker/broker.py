"""The broker's core: operations in, exact outcomes out, whoever leads.

What lives here: the wiring of outbox, intake, opening and waits to consensus, and the refusals at the door.
Rules: all on one thread, callbacks only. An outcome is given in the turn in which its command is applied, before the
next entry (P13). Sealing and sending happen in a turn of their own, so that all that comes in one turn of the loop
becomes one command. None of consensus' calls raises for a submitter's defect.
Must not know: HTTP, asyncio, what operations mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from falconq_cluster.broker.freshness import Freshness, IndexWaits
from falconq_cluster.broker.housekeeping import Housekeeping
from falconq_cluster.broker.intake import Intake
from falconq_cluster.broker.limits import BrokerLimits, BrokerMetrics
from falconq_cluster.broker.linearizing import LinearizableReads
from falconq_cluster.broker.opening import Opening, is_opening_of
from falconq_cluster.broker.outbox import Outbox
from falconq_cluster.broker.waiters import Outcome, Waiter
from falconq_cluster.clock import Clock, Timer
from falconq_cluster.errors import FalconQError
from falconq_cluster.machine.commands import ClientOperation, CommandError, Header, LeasePull, Pull, read_header
from falconq_cluster.machine.events import Event, OriginOpened
from falconq_cluster.machine.limits import MachineLimits
from falconq_cluster.machine.machine import Applied, Machine
from falconq_cluster.machine.subscriptions import Seek, SetConsumer
from falconq_cluster.machine.views import Views
from falconq_cluster.raft.frames import (
    Expected,
    Forward,
    Frame,
    FreshIndex,
    FreshIndexQuery,
    Propose,
    ReadIndex,
    ReadIndexQuery,
)
from falconq_cluster.raft.seams import RaftView
from falconq_cluster.storage.store import Reader

_RESEND_FACTOR_MAX = 8
ASIDE_MAX = MachineLimits().aside_max

EventListener = Callable[[Sequence[Event]], None]


class Broker:
    """One node's broker; implements `raft.seams.Upcalls`."""

    def __init__(
        self,
        *,
        raft: RaftView,
        state: Callable[[], tuple[Machine, Reader]],
        clock: Clock,
        limits: BrokerLimits,
        random_bytes: Callable[[int], bytes],
        metrics: BrokerMetrics | None = None,
    ) -> None:
        self._raft = raft
        self._state = state
        self._clock = clock
        self._limits = limits
        self.random_bytes = random_bytes
        self.metrics = BrokerMetrics() if metrics is None else metrics
        self.outbox = Outbox(raft=raft, clock=clock, limits=limits, metrics=self.metrics)
        self.index_waits = IndexWaits(raft=raft, clock=clock, limits=limits)
        self.freshness = Freshness(raft=raft, clock=clock, limits=limits, metrics=self.metrics, waits=self.index_waits)
        self.linearizable = LinearizableReads(
            raft=raft,
            clock=clock,
            limits=limits,
            metrics=self.metrics,
            waits=self.index_waits,
            random_bytes=random_bytes,
        )
        self._intake = Intake(lambda: self._state()[0], self.metrics)
        self._opening = Opening(raft=raft, intake=self._intake, clock=clock, limits=limits, random_bytes=random_bytes)
        self._housekeeping = Housekeeping(
            raft=raft, machine=lambda: self._state()[0], clock=clock, limits=limits, metrics=self.metrics
        )
        self._listeners: list[EventListener] = []
        self._is_running = False
        self._is_turn_due = False
        self._rewound_to = 0
        self._stuck_at = 0
        self._resend_ms = limits.resend_ms
        self._resend_timer: Timer | None = None
        self._leaderless_timer: Timer | None = None
        self._is_leaderless = False

    @property
    def raft(self) -> RaftView:
        return self._raft

    @property
    def clock(self) -> Clock:
        return self._clock

    @property
    def limits(self) -> BrokerLimits:
        return self._limits

    @property
    def is_running(self) -> bool:
        """Started and not stopped."""
        return self._is_running

    @property
    def is_open(self) -> bool:
        """Whether this node has its epoch: it takes writes."""
        return self._opening.is_open

    def views(self) -> Views:
        """The present state, for this turn only."""
        return Views(*self._state())

    def listen(self, listener: EventListener) -> None:
        """Call the listener with the events of each applied entry, after its outcomes were given.

        After a jump it is called without events: everything may have changed.
        """
        self._listeners.append(listener)

    def start(self) -> None:
        """Open this node's origin; operations may be submitted."""
        self._is_running = True
        self._opening.begin()
        self.leadership_changed()

    def stop(self) -> None:
        """End every wait; nothing is proposed from now on."""
        self._is_running = False
        for timer in (self._resend_timer, self._leaderless_timer):
            if timer is not None:
                timer.cancel()
        self._resend_timer = self._leaderless_timer = None
        self._opening.stop()
        self._housekeeping.stop()
        self.freshness.stop()
        self.linearizable.stop()
        self.index_waits.stop()
        self.outbox.stop()

    def submit(self, operation: ClientOperation, *, deadline_ms: int, done: Callable[[Outcome], None]) -> Waiter:
        """Propose the operation (its `not_after_ms` is set here); `done` is called once, never within this call.

        Raises: FalconQError (not_ready, no_leader, overloaded, body_too_large): it was not taken.
        """
        if not self._is_running or not self._raft.is_serving:
            raise FalconQError("not_ready", "this node is starting, catching up or stopping; ask another one")
        if self._is_leaderless:
            raise FalconQError("no_leader", "there is no leader with a quorum; nothing was applied")
        partitions = self._cursors_max(operation)
        waiter = self.outbox.submit(operation, deadline_ms=deadline_ms, done=done, partitions=partitions)
        self._turn_soon()
        return waiter

    def _cursors_max(self, operation: ClientOperation) -> int:
        """Partitions in which the operation may move a cursor."""
        topic = self._state()[0].state.topics.get(operation.topic)
        if topic is None or not isinstance(operation, Pull | LeasePull | SetConsumer | Seek):
            return 1
        if operation.consumer not in topic.consumers or isinstance(operation, SetConsumer | Seek):
            return len(topic.partitions)  # A new consumer begins behind what is trimmed in each.
        if isinstance(operation, Pull) and operation.partition >= 0:
            return 1
        consumer = topic.consumers.get(operation.consumer)
        if isinstance(operation, LeasePull) and consumer is not None and consumer.config.ordering:
            # What is set aside may be of any partition, and is a key each.
            return len(topic.partitions) + ASIDE_MAX
        # Of which something is given, and of which something expired is passed over.
        return min(2 * operation.count_max, len(topic.partitions))

    # Sealing and sending.

    def _turn_soon(self) -> None:
        if self._raft.is_leader:
            self._raft.request_step()
        elif not self._is_turn_due and self._is_running:
            self._is_turn_due = True
            self._clock.call_later(0, self._turn)

    def _turn(self) -> None:
        self._is_turn_due = False
        leader = self._raft.leader
        if not self._is_running:
            return
        if self._raft.is_leader:
            self._raft.request_step()
        elif leader is not None and leader != self._raft.node_id:
            self._seal()
            for sequence, command in self.outbox.unsent():
                self.metrics.forward_count += 1
                self._raft.send(leader, Forward(self.outbox.epoch, sequence, command))

    def _seal(self) -> None:
        # Without log time no expiry can be given, and during an opening the next epoch is not known.
        if self._opening.is_open and self._raft.log_time_ms() > 0:
            self.outbox.seal()
            self._watch_progress()

    def _watch_progress(self) -> None:
        """Send again what makes no progress: a frame may be lost without a sign."""
        if self._resend_timer is None and self.outbox.outstanding_count:
            self._stuck_at = self.outbox.lowest_outstanding
            self._resend_timer = self._clock.call_later(self._resend_ms, self._check_progress)

    def _check_progress(self) -> None:
        self._resend_timer = None
        if self.outbox.outstanding_count and self.outbox.lowest_outstanding == self._stuck_at:
            # A slow leader must not get more to do each second.
            self._resend_ms = min(2 * self._resend_ms, _RESEND_FACTOR_MAX * self._limits.resend_ms)
            self._rewind(self._stuck_at)
        else:
            self._resend_ms = self._limits.resend_ms
        self._watch_progress()

    def _rewind(self, sequence: int) -> None:
        self.metrics.rewind_count += 1
        self.outbox.rewind(sequence)
        self._turn_soon()

    # What consensus asks and tells.

    def collect(self, bytes_max: int) -> Sequence[bytes]:
        """The commands to append now, in order."""
        if not self._is_running or not self._raft.is_leader:
            return ()
        self._observe_leadership()
        self._seal()
        for sequence, command in self.outbox.unsent():
            self._intake.offer(self._raft.node_id, self.outbox.epoch, sequence, command)
        taken = self._intake.take(bytes_max)
        if self._intake.queue_count:
            self._raft.request_step()
        return [*taken, *self._housekeeping.take()]

    def applied(self, applied: Applied) -> None:
        """Give outcomes, then wake those who wait for what the entry changed."""
        if not self._is_running:
            return
        header = applied.header
        for event in applied.events:
            if isinstance(event, OriginOpened):
                self._origin_opened(event)
        self._housekeeping.applied(applied.events)
        if header is None:
            self._observe_leadership()
            # The leader of this no-op answers by now; what came to it earlier was dropped.
            self._opening.propose()
            self.freshness.leadership_changed()
            self.linearizable.leadership_changed()
            self._housekeeping.consider()
        elif header.origin == self._raft.node_id and header.epoch == self.outbox.epoch and not applied.is_repeat:
            self.outbox.applied(header.sequence, applied.index, applied.results)
            if self.outbox.waiting_count:
                self._turn_soon()
        self.index_waits.applied(applied.index)
        if applied.events:
            for listener in self._listeners:
                listener(applied.events)

    def _origin_opened(self, event: OriginOpened) -> None:
        self._intake.origin_opened(event.node)
        if event.node != self._raft.node_id:
            return
        self.outbox.epoch_ended()
        if self._opening.opened(event):
            self.outbox.begin_epoch(event.epoch)
            self._rewound_to = 0
            self._turn_soon()

    def leadership_changed(self) -> None:
        """Send again to whoever leads now."""
        if not self._is_running:
            return
        self._observe_leadership()
        self._intake.connections_changed()
        self._rewound_to = 0
        self.outbox.rewind(1)
        self._opening.propose()
        self.freshness.leadership_changed()
        self.linearizable.leadership_changed()
        # When its no-op was applied something may have forbidden it new commands still.
        self._housekeeping.consider()
        self._watch_leader()
        self._turn_soon()

    def _observe_leadership(self) -> None:
        if not self._raft.is_leader:
            if self._raft.term != self._intake.term or self._raft.leader != self._raft.node_id:
                self._intake.end()
            return
        if self._intake.begin(self._raft.term):
            self.outbox.rewind(1)
            self._opening.propose()
            for node in self._state()[0].members:
                self._say_expected(node)

    def _say_expected(self, node: str) -> None:
        """What an origin sent before this node could take it is lost: ask for it."""
        expected = self._intake.expected(node)
        if expected is not None and node != self._raft.node_id:
            self._raft.send(node, Expected(self._intake.term, *expected))

    def _watch_leader(self) -> None:
        if self._raft.leader is not None:
            self._is_leaderless = False
            if self._leaderless_timer is not None:
                self._leaderless_timer.cancel()
                self._leaderless_timer = None
        elif self._leaderless_timer is None and not self._is_leaderless:
            self._leaderless_timer = self._clock.call_later(self._limits.no_leader_wait_ms, self._leaderless_too_long)

    def _leaderless_too_long(self) -> None:
        self._leaderless_timer = None
        self._is_leaderless = True
        waited_ms = self._limits.no_leader_wait_ms
        self.outbox.refuse_waiting("no_leader", f"there is no leader since {waited_ms} ms; nothing was applied")

    def broker_frame(self, peer: str, frame: Frame) -> None:
        """Take a frame of another member's broker."""
        if not self._is_running:
            return
        match frame:
            case Forward():
                self._forwarded(peer, frame)
            case Expected():
                self._expected(peer, frame)
            case Propose():
                if self._raft.is_leader and is_opening_of(peer, frame.command):
                    self._observe_leadership()
                    self._intake.offer_opening(peer, frame.command)
                    self._raft.request_step()
            case FreshIndexQuery():
                self.freshness.answer(peer, frame)
            case FreshIndex():
                self.freshness.answered(peer, frame)
            case ReadIndexQuery():
                self.linearizable.answer(peer, frame)
            case ReadIndex():
                self.linearizable.answered(frame)

    def _forwarded(self, peer: str, frame: Forward) -> None:
        if not self._raft.is_leader or not _is_of(peer, frame):
            return
        self._observe_leadership()
        expected = self._intake.offer(peer, frame.epoch, frame.sequence, frame.command)
        if expected is None:
            self._raft.request_step()
        else:
            self._raft.send(peer, Expected(self._intake.term, frame.epoch, expected))

    def _expected(self, peer: str, frame: Expected) -> None:
        """Rewind once for each sequence in one term and connection: what was sent since then is on its way."""
        if peer != self._raft.leader or frame.term != self._raft.term or frame.epoch != self.outbox.epoch:
            return
        if frame.sequence > self._rewound_to:
            self._rewound_to = frame.sequence
            self._rewind(frame.sequence)

    def snapshot_installed(self) -> None:
        """Judge what the snapshot went over, and open again (P9)."""
        if not self._is_running:
            return
        machine = self._state()[0]
        origin = machine.origin(self._raft.node_id)
        if origin is not None and origin.epoch == self.outbox.epoch:
            self.outbox.jumped(origin.last_sequence)
        else:
            self.outbox.jumped_out_of_sight()
        self._opening.begin()
        self.index_waits.applied(machine.applied_index)
        for listener in self._listeners:
            listener(())


def _is_of(peer: str, frame: Forward) -> bool:
    """Whether the command says of itself what the frame says."""
    try:
        return read_header(frame.command) == Header(peer, frame.epoch, frame.sequence)
    except CommandError:
        return False
