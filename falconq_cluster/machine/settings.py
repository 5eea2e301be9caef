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

STRICT, WEIGHTED = "strict", "weighted"


class Scheduler(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Which level is given next."""

    policy: str = STRICT
    weights: tuple[tuple[str, int], ...] = ()
    """(level, share) in the order of names; a level that is not there has the share 1."""


class TopicConfig(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The settings of a topic; the defaults are those of a topic that a publish creates."""

    partitions: int = 1
    levels: tuple[str, ...] = ("low", "high")
    """Least to most urgent, 1 to 16 names."""
    scheduler: Scheduler = Scheduler()


class TopicSettings(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is given of the settings."""

    partitions: int | None = None
    levels: tuple[str, ...] | None = None
    scheduler: Scheduler | None = None


def with_settings(config: TopicConfig, given: TopicSettings) -> TopicConfig:
    """The configuration with what is given in its place."""
    values = {name: value for name, value in msgspec.structs.asdict(given).items() if value is not None}
    return msgspec.structs.replace(config, **values)
