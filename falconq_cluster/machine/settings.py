"""The settings of a topic.

What lives here: what a topic's settings are, and what a request gives of them.
Rules: both have the same fields in the same order; in what is given, None stands for "not given". Both are stored or
sent as arrays, so fields are never reordered or removed, and new ones go to the end with a default. To add a setting:
here, `config_mistakes` of machine/topics.py, `SETTINGS` of gateway/settings.py, `TopicAnswer` of gateway/shapes.py,
docs/topics.md.
Must not know: JSON, what a setting does.
"""

from __future__ import annotations

import msgspec

STRICT, WEIGHTED, AGED = "strict", "weighted", "aged"
LEASE_MS_MIN = 100
LEASE_MS_MAX = 43_200_000
RETURN_MS_MAX = 604_800_000
"""The longest that a message waits to be given again."""
DEDUPE_WINDOW_MS = 300_000
"""How long a repeat of an append is known as one, where nobody said otherwise. Published; and stored rows without a
time of their own were written under it."""
FACTOR_ONE = 1000
"""Factors are thousandths: the machine has no fractions."""
_RETRY_STEPS_MAX = 100
_NAME_CHARS_MAX = 200
_DEAD_SUFFIX = ".dead"
DROP_OLDEST, REJECT, DROP_LOWEST = "drop-oldest", "reject", "drop-lowest"
OVERFLOWS = (DROP_OLDEST, REJECT, DROP_LOWEST)
"""What gives way in a topic that is full."""


class Scheduler(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Which level is given next."""

    policy: str = STRICT
    weights: tuple[tuple[str, int], ...] = ()
    """(level, share) in the order of names; a level that is not there has the share 1."""
    max_wait_ms: tuple[tuple[str, int], ...] = ()
    """(level, limit) in the order of names: how long a message may wait before it goes ahead of more urgent ones; a
    level that is not there has no limit."""


class Retry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How long a message waits after a delivery that failed, where nobody said otherwise."""

    min_ms: int = 0
    """After the first one."""
    max_ms: int = 60_000
    factor: int = 2 * FACTOR_ONE
    """By which each wait is longer than the one before, in thousandths."""

    def wait_ms(self, failed_count: int) -> int:
        """The wait after so many deliveries that failed, at least 1."""
        wait_ms = self.min_ms
        for _ in range(min(failed_count - 1, _RETRY_STEPS_MAX)):
            if wait_ms >= self.max_ms:
                break
            wait_ms = wait_ms * self.factor // FACTOR_ONE
        return min(wait_ms, self.max_ms)


class Retention(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a topic keeps, over all its partitions; 0 is without a limit."""

    ms: int = 0
    """No message longer than that, in log time."""
    bytes: int = 0
    """Of packed records."""
    messages: int = 0
    acked: bool = False
    """Only what some consumer has not settled; with no consumer, everything (PROTOCOL.md P15)."""


class TopicConfig(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The settings of a topic; the defaults are those of a topic that a publish creates."""

    partitions: int = 1
    levels: tuple[str, ...] = ("low", "high")
    """Least to most urgent, 1 to 16 names."""
    scheduler: Scheduler = Scheduler()
    lease_ms: int = 30_000
    """How long a lease lasts for which nobody said otherwise."""
    in_flight_max: int = 1_000
    """Messages of a consumer that are leased at a time."""
    deliveries_max: int = 0
    """After so many deliveries that failed a message goes to the dead letters; 0 for never."""
    dead_letter_topic: str = ""
    """Empty for the topic's name with `.dead`."""
    retry: Retry = Retry()
    retention: Retention = Retention()
    overflow: str = DROP_OLDEST
    dedupe_window_ms: int = DEDUPE_WINDOW_MS
    """How long a repeat of an append is known as one, in log time; counts for appends from now on."""


class TopicSettings(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is given of the settings."""

    partitions: int | None = None
    levels: tuple[str, ...] | None = None
    scheduler: Scheduler | None = None
    lease_ms: int | None = None
    in_flight_max: int | None = None
    deliveries_max: int | None = None
    dead_letter_topic: str | None = None
    retry: Retry | None = None
    retention: Retention | None = None
    overflow: str | None = None
    dedupe_window_ms: int | None = None


def dead_letter_topic(topic: str, config: TopicConfig) -> str:
    """Where the topic's dead letters go. Of a name that has no room for the suffix, the end is left out."""
    return config.dead_letter_topic or topic[: _NAME_CHARS_MAX - len(_DEAD_SUFFIX)] + _DEAD_SUFFIX


def with_settings(config: TopicConfig, given: TopicSettings) -> TopicConfig:
    """The configuration with what is given in its place."""
    values = {name: value for name, value in msgspec.structs.asdict(given).items() if value is not None}
    return msgspec.structs.replace(config, **values)
