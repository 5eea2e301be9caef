"""The bytes of every stored format. A change here needs a version command (PROTOCOL.md P18)."""

from __future__ import annotations

import pytest

from falconq_cluster.errors import CorruptionError
from falconq_cluster.machine import keys, rows
from falconq_cluster.machine.amends import CancelMessage, ChangeMessage
from falconq_cluster.machine.appends import AppendMany, Part, Ripen
from falconq_cluster.machine.capacity import Capacity, Within
from falconq_cluster.machine.commands import (
    ANY_VERSION,
    MISSING_VERSION,
    Append,
    AppendOnce,
    Command,
    DeleteTopic,
    Form,
    Header,
    LeasePull,
    OpenOrigin,
    Pull,
    Range,
    SetDisk,
    Settle,
    SettleItem,
    SettleKind,
    SetTopic,
    Tick,
    Trim,
    decode_command,
    encode_command,
    encode_entry,
    read_header,
)
from falconq_cluster.machine.keeping import Purge, Survey, TrimLevels
from falconq_cluster.machine.operation import Once
from falconq_cluster.machine.records import BatchHeader, pack_batch, pack_record
from falconq_cluster.machine.settings import TopicConfig, TopicSettings
from falconq_cluster.machine.subscriptions import (
    ConsumerConfig,
    DeleteConsumer,
    OpenStream,
    PauseConsumer,
    Reap,
    Redrive,
    Seek,
    SetConsumer,
    Start,
    StartKind,
    StreamKind,
)

EVERYTHING = Command(
    "n1",
    5,
    6,
    [
        Append(1000, "t", 1, 2, 1, b"\x01\x02", may_create=True),
        Pull(1001, "t", "c", -1, 10, 4096, "a"),
        OpenOrigin("n1", b"\xaa"),
        Tick(),
        Form("cid", {"n1": "d1"}),
        SetDisk("n2", "d2"),
        AppendOnce(1000, "t", 1, 2, 1, b"\x01\x02", may_create=True, once=Once("k", 3, b"\xaa")),
    ],
)

COMMAND = (
    "010200050000000000000006000000000000006e31979801cd03e8a174010201c4020102c39802cd03e9a174a163ff0acd10"
    "00a1619303a26e31c401aa91049305a363696481a26e31a264319306a26e32a264329907cd03e8a174010201c4020102c393"
    "a16b03c401aa"
)


def test_command_has_its_golden_bytes():
    assert encode_command(EVERYTHING).hex() == COMMAND


def test_golden_command_is_read_back():
    assert decode_command(bytes.fromhex(COMMAND)) == EVERYTHING
    assert read_header(bytes.fromhex(COMMAND)) == Header("n1", 5, 6)


MANY = Command(
    "n1",
    5,
    6,
    [
        AppendMany(
            1000, "t", [Part(1, 2, 1, b"\x01"), Part(0, 0, 1, b"\x02", 7)], True, ((1, -1),), Once("k", 0, b"\xaa")
        ),
        Ripen(),
    ],
)
MANY_COMMAND = (
    "010200050000000000000006000000000000006e3192971ecd03e8a1749296010201c40101000096000001c401020700c3919201ff93a16b"
    "00c401aa911f"
)


def test_an_append_of_many_has_its_golden_bytes_and_is_read_back():
    assert encode_command(MANY).hex() == MANY_COMMAND
    assert decode_command(bytes.fromhex(MANY_COMMAND)) == MANY


AMENDS = Command("n1", 5, 6, [ChangeMessage(1000, "t", 7, 2, 1, 9, 3, 500, -1), CancelMessage(1000, "t", 7, 2, 1, 9)])
AMENDS_COMMAND = "010200050000000000000006000000000000006e31929a2acd03e8a1740702010903cd01f4ff972bcd03e8a17407020109"


def test_changes_of_messages_have_their_golden_bytes_and_are_read_back():
    assert encode_command(AMENDS).hex() == AMENDS_COMMAND
    assert decode_command(bytes.fromhex(AMENDS_COMMAND)) == AMENDS


TOPIC_CHANGES = Command(
    "n1",
    5,
    6,
    [
        SetTopic(1000, "t", 7, is_change=False, given=TopicSettings(3, ("low", "high"))),
        SetTopic(1000, "t", MISSING_VERSION, is_change=True, given=TopicSettings()),
        DeleteTopic(1001, "t", ANY_VERSION),
        Trim(),
        TrimLevels(["t", "u"]),
        Purge(1001, "t"),
    ],
)

TOPIC_CHANGES_COMMAND = (
    "010200050000000000000006000000000000006e3196960acd03e8a17407c29b0392a36c6f77a468696768c0c0c0c0c0c0c0"
    "c0c0960acd03e8a174fec39bc0c0c0c0c0c0c0c0c0c0c0940bcd03e9a17400910c932892a174a175909329cd03e9a174"
)
TOPIC_CHANGES_BEFORE_WINDOWS = (
    "010200050000000000000006000000000000006e3196960acd03e8a17407c29a0392a36c6f77a468696768c0c0c0c0c0c0c0"
    "c0960acd03e8a174fec39ac0c0c0c0c0c0c0c0c0c0940bcd03e9a17400910c922892a174a1759329cd03e9a174"
)


def test_changes_of_topics_have_their_golden_bytes_and_are_read_back():
    assert encode_command(TOPIC_CHANGES).hex() == TOPIC_CHANGES_COMMAND
    assert decode_command(bytes.fromhex(TOPIC_CHANGES_COMMAND)) == TOPIC_CHANGES
    assert decode_command(bytes.fromhex(TOPIC_CHANGES_BEFORE_WINDOWS)) == TOPIC_CHANGES


SURVEYED = Command("", 0, 0, [TrimLevels([], (Survey("t", 9, 8, [(0, 1, 5)], [(0, 1, 4)], [("c", 0, 1)]),))])
SURVEYED_COMMAND = "01000000000000000000000000000000000000919328909196a1740908919300010591930001049193a1630001"


def test_what_a_survey_found_has_its_golden_bytes_and_is_read_back():
    assert encode_command(SURVEYED).hex() == SURVEYED_COMMAND
    assert decode_command(bytes.fromhex(SURVEYED_COMMAND)) == SURVEYED


SAID = Command("n1", 5, 6, [Within(Capacity(1, 2, 3, 4, 5, 6, 7, 8, 900)), Tick()])
SAID_COMMAND = "010200050000000000000006000000000000006e31929232990102030405060708cd03849104"


def test_what_a_node_says_of_its_limits_has_its_golden_bytes_and_is_read_back():
    assert encode_command(SAID).hex() == SAID_COMMAND
    assert decode_command(bytes.fromhex(SAID_COMMAND)) == SAID


CONSUMER_CHANGES = Command(
    "n1",
    5,
    6,
    [
        SetConsumer(1000, "t", "c", ConsumerConfig(Start(StartKind.TIME, 9), 1, 2, 3), (4, 5)),
        DeleteConsumer(1000, "t", "c"),
        Seek(1000, "t", "c", Start(StartKind.OFFSET, 7)),
        PauseConsumer(1000, "t", "c", is_paused=True),
        Redrive(1000, "t", 7),
        Reap([("t", "c")], ["d"]),
        Settle(1000, "t", "c", [SettleItem(SettleKind.REJECT, 1, 2, b"n", 3, 0, "r")]),
        LeasePull(1000, "t", "c", 9, 4096, 500, 1, b"n", 7, auto_commit=True, stream=StreamKind.SHARED),
        OpenStream(1000, "t", "c", b"n", StreamKind.SHARED, 7, b"m"),
    ],
)

CONSUMER_CHANGES_COMMAND = (
    "010200050000000000000006000000000000006e31999616cd03e8a174a16395920309010203009204059417cd03e8a174a1"
    "639618cd03e8a174a163920207909519cd03e8a174a163c3941acd03e8a17407931b9192a174a16391a1649515cd03e8a174"
    "a1639197050102c4016e0300a1729c14cd03e8a174a16309cd1000cd01f401c4016e07c302981dcd03e8a174a163c4016e02"
    "07c4016d"
)


def test_changes_of_consumers_have_their_golden_bytes_and_are_read_back():
    assert encode_command(CONSUMER_CHANGES).hex() == CONSUMER_CHANGES_COMMAND
    assert decode_command(bytes.fromhex(CONSUMER_CHANGES_COMMAND)) == CONSUMER_CHANGES


def test_entry_is_kind_version_and_stamp_before_the_command():
    assert encode_entry(b"\xcc", 258).hex() == "00010201000000000000cc"


KEYS = [
    (keys.META, "01"),
    (keys.CLUSTER, "02"),
    (keys.origin_key("n1"), "036e31"),
    (keys.topic_key("t"), "1074"),
    (keys.partition_key(258, 3), "11000000000000010200000003"),
    (keys.addition_key(258, 3), "31000000000000010200000003"),
    (keys.consumer_key(258, "c"), "12000000000000010263"),
    (keys.cursor_key(258, 772, 3), "130000000000000102000000000000030400000003"),
    (keys.attempt_key(258, 772, 1286), "14000000000000010200000000000003040000000000000506"),
    (
        keys.batch_key(keys.level_prefix(258, 3, 1), keys.Batch(7, 2, 300, 1000)),
        "20000000000000010200000003010000000000000007000000020000012c00000000000003e8",
    ),
    (
        keys.batch_key(keys.level_prefix(258, 3, 1), keys.Batch(7, 2, 300, 1000, 2000)),
        "20000000000000010200000003010000000000000007000000020000012c00000000000003e800000000000007d0",
    ),
    (
        keys.batch_key(keys.level_prefix(258, 3, 1), keys.Batch(7, 2, 300, 1000, 0, 5, 6, 8, 9)),
        "20000000000000010200000003010000000000000007000000020000012c00000000000003e80000000000000000000000000000000500000006000000000000000800000009",
    ),
    (
        keys.placed_key(258, keys.Batch(7, 2, 300, 1000, 0, 5, 6, 8, 9)),
        "42000000000000010200000000000000050000000600000002",
    ),
    (
        keys.buried_key(keys.level_prefix(258, 3, 1), 7, 772),
        "430000000000000102000000030100000000000000070000000000000304",
    ),
    (
        keys.due_key(keys.Waiting(5, 258, 772, 1, 2)),
        "400000000000000005000000000000010200000000000003040000000100000002",
    ),
    (
        keys.delayed_key(keys.Waiting(5, 258, 772, 1, 2)),
        "410000000000000102000000000000030400000001000000020000000000000005",
    ),
    (keys.once_key(258, "k", is_producer=False), "600000000000000102006b"),
    (keys.once_key(258, "p", is_producer=True), "6000000000000001020170"),
    (keys.deletion_key(258), "680000000000000102"),
]


@pytest.mark.parametrize(("key", "golden"), KEYS)
def test_key_has_its_golden_bytes(key: bytes, golden: str):
    assert key.hex() == golden


@pytest.mark.parametrize("more", [(), (2000,), (keys.CANCELLED_MS,), (0, 5, 6, 8, 9), (2000, 5, 0, 8, 0)])
def test_a_batch_is_read_back_from_its_key_whatever_there_is_of_it(more: tuple[int, ...]):
    batch = keys.Batch(7, 2, 300, 1000, *more)
    assert keys.read_batch_key(keys.batch_key(keys.level_prefix(258, 3, 1), batch)) == batch


def test_key_order_is_delivery_order_within_a_level():
    prefix = keys.level_prefix(1, 0, 0)
    order = [keys.batch_key(prefix, keys.Batch(base, 1, 1, 1)) for base in (0, 1, 255, 256, 65_536, 1 << 40)]
    assert order == sorted(order)
    assert order[-1] < keys.prefix_end(prefix) <= keys.level_prefix(1, 0, 1)


ROWS = [
    (rows.MetaRow(7, 2, 1000, bytes(16)), "01940702cd03e8c41000000000000000000000000000000000"),
    (rows.ClusterRow("cid", {"n2": "", "n1": "d1"}, 9), "0193a363696482a26e31a26431a26e32a009"),
    (rows.OriginRow(5, 6, b"\xaa"), "01930506c401aa"),
    (
        rows.TopicRow(258, 1000, TopicConfig(), 259),
        (
            "0197cd0102cd03e89b0192a36c6f77a46869676893a67374726963749090cd7530cd03e800a09300cdea60cd07d0"
            "94000000c2ab64726f702d6f6c64657374ce000493e0cd0103c200a0"
        ),
    ),
    (rows.DeletionRow(258, b"\x20\x01"), "0193cd0102c402200100"),
    (
        rows.PartitionRow(1, 9, [rows.LevelCounts(5, 500, 1, 100, 1, 0, 1, 1000, 0), rows.LevelCounts(3, 300)]),
        "01930109929905cd01f40164010001cd03e8009903cd012c00000000000000",
    ),
    (rows.ConsumerRow(772, 1000, -1), "019acd0304cd03e8ff9090959200000000ce240c840000c20000c400"),
    (
        rows.LeaseRow(1, 4, 30, 0, 2, 3, b"n", 1000, 5, is_last=True, reason="r"),
        "019f01041e000203c4016ecd03e805c3a17200c400c200",
    ),
    (rows.AdditionRow((4, 5)), "0191920405"),
    (rows.CursorRow([rows.CursorPosition(4, 6, 5), rows.CursorPosition(0, 0, 0)]), "01919294040605009400000000"),
    (
        rows.OnceRow(9, 1000, 3, 7, b"\xaa", 1, 2, 4, 1, 0, until_ms=2000),
        "019d09cd03e80307c401aa0102040100c40000cd07d0",
    ),
    (rows.DelayedRow(1, 2, b"\xaa"), "01940102c401aa00"),
    (rows.PlacedRow(1, 2, 300), "01930102cd012c"),
    (rows.AttemptRow("a", 1000, [Range(0, 1, 4, 6, 2)], [(0, 6)]), "0194a161cd03e89195000104060291920006"),
]


@pytest.mark.parametrize(("row", "golden"), ROWS)
def test_row_has_its_golden_bytes_and_is_read_back(row: rows.Row, golden: str):
    assert rows.encode_row(row).hex() == golden
    assert rows.decode_row(bytes.fromhex(golden), type(row)) == row


OLD_ROWS = [
    (
        rows.TopicRow(258, 1000, TopicConfig(), 259),
        (
            "0197cd0102cd03e89a0192a36c6f77a46869676893a67374726963749090cd7530cd03e800a09300cdea60cd07d0"
            "94000000c2ab64726f702d6f6c64657374cd0103c200a0"
        ),
    ),
    (rows.OnceRow(9, 1000, 3, 7, b"\xaa", 1, 2, 4, 1, 0), "019c09cd03e80307c401aa0102040100c40000"),
]


@pytest.mark.parametrize(("row", "old"), OLD_ROWS)
def test_a_row_of_before_a_field_was_added_is_read_with_its_default(row: rows.Row, old: str):
    assert rows.decode_row(bytes.fromhex(old), type(row)) == row


RECORDS = [
    (pack_record(b"m"), "01000000ffffffffffff6d"),
    (pack_record(b'"hi"', "key", b"{}"), "04000000030002000000226869226b65797b7d"),
    (
        pack_batch(BatchHeader(1, 7, 3, 1000, 9), pack_record(b"m")),
        "0101000000070000000000000003000000e803000000000000090000000000000001000000ffffffffffff6d",
    ),
]


@pytest.mark.parametrize(("data", "golden"), RECORDS)
def test_records_have_their_golden_bytes(data: bytes, golden: str):
    assert data.hex() == golden


def test_row_of_another_version_is_refused():
    with pytest.raises(CorruptionError, match="OriginRow has version 02, this node reads 1"):
        rows.decode_row(b"\x02\x93", rows.OriginRow)
    with pytest.raises(CorruptionError, match="OriginRow has version nothing"):
        rows.decode_row(b"", rows.OriginRow)


def test_topic_row_from_before_versions_is_read_with_its_default():
    data = bytes.fromhex("0193cd0102cd03e8920192a36c6f77a468696768")
    assert rows.decode_row(data, rows.TopicRow) == rows.TopicRow(258, 1000, TopicConfig(), 0)


def test_rows_from_before_retention_are_read_with_nothing_trimmed():
    data = bytes.fromhex("01930109929205cd01f49203cd012c")
    row = rows.PartitionRow(1, 9, [rows.LevelCounts(5, 500), rows.LevelCounts(3, 300)])
    assert rows.decode_row(data, rows.PartitionRow) == row
    positions = [rows.CursorPosition(4, 6, 5), rows.CursorPosition(0, 0, 0)]
    assert rows.decode_row(bytes.fromhex("0191929304060593000000"), rows.CursorRow) == rows.CursorRow(positions)


def test_damaged_row_is_refused():
    with pytest.raises(CorruptionError, match="OriginRow is not readable"):
        rows.decode_row(bytes.fromhex("01930506"), rows.OriginRow)
    with pytest.raises(CorruptionError, match="OriginRow is not readable"):
        rows.decode_row(bytes.fromhex("01930506a1ff"), rows.OriginRow)
