"""What the leader proposes of its own accord: trimming, reaping and ripening.

What lives here: which events concern whom of the three.
Rules: as in broker/trimming.py, broker/reaping.py and broker/ripening.py.
Must not know: what clients ask for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from falconq_cluster.broker.limits import BrokerLimits, BrokerMetrics
from falconq_cluster.broker.reaping import Reaping
from falconq_cluster.broker.ripening import Ripening
from falconq_cluster.broker.trimming import Trimming
from falconq_cluster.clock import Clock
from falconq_cluster.machine.events import (
    Buried,
    ConsumerUnlinked,
    Delayed,
    Event,
    Expired,
    LeftUndone,
    Reaped,
    Ripened,
    TopicDeleted,
    TopicPurged,
    Trimmed,
)
from falconq_cluster.machine.machine import Machine
from falconq_cluster.raft.seams import RaftView


class Housekeeping:
    """Proposes on the leader; idle elsewhere."""

    def __init__(
        self,
        *,
        raft: RaftView,
        machine: Callable[[], Machine],
        clock: Clock,
        limits: BrokerLimits,
        metrics: BrokerMetrics,
    ) -> None:
        self._raft = raft
        self._metrics = metrics
        self._trimming = Trimming(raft=raft, machine=machine, clock=clock, limits=limits)
        self._reaping = Reaping(raft=raft, state=lambda: machine().state, clock=clock, limits=limits)
        self._ripening = Ripening(raft=raft, state=lambda: machine().state, clock=clock)

    def take(self) -> list[bytes]:
        """On the leader: the commands to append now."""
        return [*self._trimming.take(), *self._reaping.take(), *self._ripening.take()]

    def applied(self, events: Sequence[Event]) -> None:
        """See what an entry leaves to be done."""
        for event in events:
            match event:
                case Trimmed():
                    self._trimming.applied()
                    self._count_trimmed(event)
                case TopicPurged():
                    self._count_trimmed(event)
                case TopicDeleted() | ConsumerUnlinked():
                    self._trimming.consider()
                case Delayed():
                    self._ripening.consider()
                case Ripened():
                    self._ripening.applied()
                case Reaped():
                    self._reaping.applied()
                case LeftUndone():
                    self._reaping.left_undone(event)
                case Buried() if self._raft.is_leader:
                    self._metrics.dead_letter_count += event.count
                case Expired() if self._raft.is_leader:
                    self._metrics.expired_message_count += event.count
                case _:
                    pass
        self._trimming.changed(events)

    def _count_trimmed(self, event: Trimmed | TopicPurged) -> None:
        if self._raft.is_leader:
            self._metrics.trimmed_count += event.count
            self._metrics.trimmed_bytes += event.count_bytes

    def consider(self) -> None:
        """This node may lead by now."""
        self._trimming.consider()
        self._reaping.consider()
        self._ripening.consider()

    def stop(self) -> None:
        """Propose no more."""
        self._trimming.stop()
        self._reaping.stop()
        self._ripening.stop()
