from __future__ import annotations

from random import Random

import pytest

from falconq_cluster.machine.appends import AppendMany, Part, Ripen
from falconq_cluster.machine.commands import (
    AnyOperation,
    DeleteTopic,
    Form,
    LeasePull,
    SetDisk,
    Settle,
    SettleItem,
    SettleKind,
    SetTopic,
    Tick,
    Trim,
)
from falconq_cluster.machine.deduping import DIGEST_BYTES
from falconq_cluster.machine.keeping import Purge
from falconq_cluster.machine.limits import MachineLimits
from falconq_cluster.machine.machine import NO_OP, Machine
from falconq_cluster.machine.operation import Once
from falconq_cluster.machine.records import pack_record
from falconq_cluster.machine.settings import OVERFLOWS, Retention, TopicSettings
from falconq_cluster.machine.subscriptions import (
    ConsumerConfig,
    DeleteConsumer,
    OpenStream,
    Ordering,
    PauseConsumer,
    Reap,
    Redrive,
    Seek,
    SetConsumer,
    Start,
    StartKind,
    StreamKind,
)
from falconq_cluster.machine.surveying import trim_now
from tests.unit.machine.amends import cancelling, changing
from tests.unit.machine.helpers import Node, append, pull

LIMITS = MachineLimits(ripen_keys_max=8, trim_keys_max=10, trim_batches_max=5, move_count_max=3)


def history(seed: int, length: int) -> Node:
    """A node that applied a random history of everything there is."""
    random = Random(seed)
    node = Node(LIMITS)
    node.apply(NO_OP)
    node.command(Form("cid", {"n1": "d1", "n2": "d2"}))
    epoch = node.open_origin("n1")
    for sequence in range(1, length):
        node.now_ms += random.choice([0, 1, 20_000])
        operations: list[AnyOperation] = []
        for _ in range(random.randrange(1, 5)):
            topic, consumer = random.choice("tuv"), random.choice("xy")
            messages = [str(sequence)] * random.randrange(1, 4)
            attempt = random.choice(["", "a", "b"])
            operations += random.choice(
                [
                    [append(*messages, topic=topic, level=random.randrange(3))],
                    [pull(random.randrange(1, 9), topic=topic, consumer=consumer, attempt=attempt)],
                    [Tick(), SetDisk("n1", random.choice("ab"))],
                    [_set_topic(random, topic)],
                    [_many(random, topic, str(sequence))],
                    [_managed(random, topic, consumer)],
                    [_leased(random, topic, consumer)],
                    [trim_now(node.machine, [topic], node.now_ms)],
                    [Purge(0, topic)] if random.random() < 0.3 else [trim_now(node.machine, "tuv", node.now_ms)],
                    [_amended(random, node, topic) for _ in range(random.randrange(1, 4))],
                    [DeleteTopic(0, topic, 0), Trim()] if random.random() < 0.3 else [Trim()],
                ]
            )
        node.command(*operations, origin="n1", epoch=epoch, sequence=sequence)
        if random.random() < 0.3:
            node.command(Ripen())
    return node


def _many(random: Random, topic: str, message: str) -> AppendMany:
    records = pack_record(message.encode())
    delays, lives = random.choice([0, 0, 5, 30_000]), random.choice([0, 0, 1, 50_000])
    parts = [
        Part(random.randrange(2), random.randrange(3), 1, records, delays, lives) for _ in range(random.randrange(1, 4))
    ]
    expected = random.choice([(), (), ((0, random.randrange(-1, 9)),)])
    once = random.choice([None, Once(random.choice("kl"), digest=bytes(DIGEST_BYTES))])
    return AppendMany(0, topic, parts, True, expected, once)


def _managed(random: Random, topic: str, consumer: str) -> AnyOperation:
    start = random.choice([Start(), Start(StartKind.LATEST), Start(StartKind.OFFSET, random.randrange(30))])
    ordering = random.choice([Ordering.NONE, Ordering.KEY, Ordering.PARTITION])
    config = ConsumerConfig(start, expire_after_ms=600_000, ordering=ordering)
    operations: list[AnyOperation] = [
        SetConsumer(0, topic, consumer, config),
        Seek(0, topic, consumer, start),
        PauseConsumer(0, topic, consumer, random.random() < 0.3),
        DeleteConsumer(0, topic, consumer),
    ]
    return random.choice(operations)


def _leased(random: Random, topic: str, consumer: str) -> AnyOperation:
    if random.random() < 0.2:
        return OpenStream(
            0, topic, consumer, bytes(16), random.choice([StreamKind.ALONE, StreamKind.SHARED]), random.randrange(9)
        )
    if random.random() < 0.5:
        kind = random.choice(list(StreamKind))
        return LeasePull(0, topic, consumer, random.randrange(1, 9), 4096, 20_000, 0, bytes(16), 0, stream=kind)
    if random.random() < 0.3:
        due = Reap([(topic, consumer)], [f"{topic}.dead"])
        return Redrive(0, topic, random.randrange(3)) if random.random() < 0.3 else due
    kinds = [random.choice(list(SettleKind)) for _ in range(5)]
    return Settle(0, topic, consumer, [SettleItem(kind, 0, random.randrange(30), bytes(16), 100) for kind in kinds])


def _amended(random: Random, node: Node, topic: str) -> AnyOperation:
    index = node.machine.applied_index - random.randrange(-1, 12)
    kept = node.views.peek(topic, partition=None, offset=0, count=50)
    message_id = random.choice([message.id for message in kept] or [f"{index}.{random.randrange(4)}"])
    if random.random() < 0.4:
        return cancelling(node, message_id, topic=topic)
    level, delay_ms = random.randrange(-1, 2), random.choice([-1, 0, 9_000])
    return changing(node, message_id, topic=topic, level=level, delay_ms=delay_ms)


def _set_topic(random: Random, topic: str) -> SetTopic:
    levels = ("low", "high", "urgent", "now")[: random.randrange(1, 5)]
    retention = Retention(random.choice([0, 30_000]), 0, random.choice([0, 5, 20]), random.choice([False, False, True]))
    given = TopicSettings(
        random.randrange(1, 4),
        levels,
        deliveries_max=random.randrange(3),
        retention=retention,
        overflow=random.choice(list(OVERFLOWS)),
    )
    return SetTopic(0, topic, 0, random.random() < 0.5, given)


@pytest.mark.parametrize("seed", range(5))
def test_same_history_gives_the_same_bytes(seed: int):
    one, other = history(seed, 120), Node(LIMITS)
    for entry in one.entries:
        other.apply(entry)
    assert other.machine.digest == one.machine.digest
    assert other.everything() == one.everything()


@pytest.mark.parametrize("seed", range(5))
def test_restart_after_any_entry_changes_nothing_that_follows(seed: int):
    one, other = history(seed, 120), Node(LIMITS)
    for entry in one.entries:
        other.apply(entry)
        other.reload()
    assert other.machine.digest == one.machine.digest
    assert other.everything() == one.everything()


def test_restart_from_a_copy_of_the_store_continues_the_history():
    node = history(9, 60)
    cut = 30
    other = Node(LIMITS)
    for entry in node.entries[:cut]:
        other.apply(entry)
    copy = Node(LIMITS)
    copy.store.write(other.everything())
    copy.machine = Machine.load(copy.store, LIMITS)
    assert copy.machine.applied_index == cut
    for entry in node.entries[cut:]:
        copy.apply(entry)
    assert copy.machine.digest == node.machine.digest
    assert copy.everything() == node.everything()


def test_loaded_machine_knows_what_the_running_one_knows():
    node = history(3, 60)
    loaded = Machine.load(node.store)
    running = node.machine
    assert (loaded.applied_index, loaded.applied_term) == (running.applied_index, running.applied_term)
    assert (loaded.log_time_ms, loaded.digest) == (running.log_time_ms, running.digest)
    assert (loaded.cluster_id, loaded.members) == (running.cluster_id, running.members)
    assert loaded.origin("n1") == running.origin("n1")
    assert loaded.record_index == running.record_index
