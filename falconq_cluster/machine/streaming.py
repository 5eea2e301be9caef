"""Event streams: deliveries with numbers, of which a stream that goes on acknowledges the first ones (PROTOCOL.md P20).

What lives here: the OpenStream operation, and what it does to the streams before.
Rules: what a stream is handed has a number, higher than any before it of the consumer. A stream that goes on from
number n acknowledges what the streams before it had in hand up to n, and gives back the rest, whatever node they were
on; without a number it gives back all. A stream that does not share its consumer takes the place of the one before,
which is handed nothing from then on. It may have more in hand than one operation may write, so an answer says whether
it is done; until then it is sent again.
Must not know: what is in a message, who reads the stream.
"""

from __future__ import annotations

from msgspec.structs import replace

from falconq_cluster.machine.commands import Refused
from falconq_cluster.machine.consumers import create_consumer, drop_in_hand, put_in_hand, refusal_of_new, used
from falconq_cluster.machine.events import HoldingsChanged, StreamReplaced
from falconq_cluster.machine.holdings import Held, Phase
from falconq_cluster.machine.leasing import NONCE_BYTES, advance, refused_early
from falconq_cluster.machine.state import ConsumerState, TopicState
from falconq_cluster.machine.subscriptions import OpenStream, StreamKind, StreamOpened
from falconq_cluster.machine.turn import Turn


def open_stream(turn: Turn, operation: OpenStream) -> StreamOpened | Refused:
    """Settles what earlier streams had in hand; from now on this stream may be handed messages."""
    topic = turn.state.topics.get(operation.topic)
    if topic is None or turn.is_expired(operation.not_after_ms):
        return refused_early(turn, operation.not_after_ms, operation.topic)
    consumer = topic.consumers.get(operation.consumer)
    refusal = _refusal(turn, operation, topic, consumer)
    if refusal is not None:
        return refusal
    if consumer is None:
        consumer = create_consumer(turn, topic, operation.consumer)
    used(turn, topic, consumer)
    advance(turn, topic, consumer)
    if operation.stream is StreamKind.ALONE and consumer.stream != operation.nonce:
        consumer.stream = operation.nonce
        turn.consumer_changed(topic, consumer)
        turn.events.append(StreamReplaced(topic.name, consumer.name, operation.nonce))
    left = _in_hand(consumer, operation)
    for held in left[: turn.limits.lease_count_max]:
        _settle(turn, topic, consumer, held, is_acked=held.row.number <= operation.acked_number)
    if left:
        advance(turn, topic, consumer)
        turn.events.append(HoldingsChanged(topic.name, consumer.name))
    return StreamOpened(topic.name, consumer.name, len(left) <= turn.limits.lease_count_max)


def _refusal(turn: Turn, operation: OpenStream, topic: TopicState, consumer: ConsumerState | None) -> Refused | None:
    if len(operation.nonce) != NONCE_BYTES or operation.stream is StreamKind.NONE:
        return Refused("bad_request", f"a stream has a kind and a nonce of {NONCE_BYTES} bytes")
    given_count = 0 if consumer is None else consumer.delivery_number
    if operation.acked_number > given_count:
        text = f"consumer {operation.consumer!r} had {given_count} deliveries by streams, none has the number"
        return Refused("bad_request", f"{text} {operation.acked_number}; connect without Last-Event-ID")
    return None if consumer is not None else refusal_of_new(turn, topic, operation.consumer)


def _in_hand(consumer: ConsumerState, operation: OpenStream) -> list[Held]:
    """What the streams in whose place this one comes have in hand, in the order of their numbers."""
    found = consumer.holdings.numbered()
    if operation.stream is StreamKind.ALONE:
        return [held for held in found if held.row.nonce != operation.nonce]
    return [held for held in found if held.row.nonce == operation.acked_nonce]


def _settle(turn: Turn, topic: TopicState, consumer: ConsumerState, held: Held, *, is_acked: bool) -> None:
    place, row = (held.partition, held.offset), held.row
    if is_acked:
        drop_in_hand(turn, topic, consumer, held)
    elif held.phase is Phase.LEASED:
        # Nobody failed: it comes again at once, and the delivery does not count.
        put_in_hand(turn, topic, consumer, place, replace(row, nonce=b"", until_ms=turn.log_time_ms, number=0))
    else:
        put_in_hand(turn, topic, consumer, place, replace(row, number=0))
