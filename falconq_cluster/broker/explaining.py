"""From what the machine shows of one message to what clients are told.

What lives here: where a message stands with each consumer, and with all of them together.
Rules: with all together it stands as far back as with the consumer that is least done with it: `leased` before
`ready`, `delayed`, `dead` and `acked`. Without a consumer it is ready, since the next one that comes is given it.
Must not know: HTTP, how a message is found.
"""

from __future__ import annotations

from collections.abc import Sequence

from falconq_cluster.broker.message_requests import ConsumerState, ExplainedMessage, ExplainRequest
from falconq_cluster.machine.message_views import ConsumersPart, MessageState, MessageView

ORDER: tuple[MessageState, ...] = ("leased", "ready", "delayed", "dead", "acked")


def explained_message(
    request: ExplainRequest, view: MessageView, levels: Sequence[str], index: int
) -> ExplainedMessage:
    """The message and its consumers as they were asked for; the view has all of these, or the one that was asked."""
    message, states = view.message, [_state(part) for part in view.consumers]
    together = _waiting(view) if view.due_ms else _together(states)
    behind = [state for state in states if state.consumer > request.after]
    return ExplainedMessage(
        topic=request.topic,
        id=message.id,
        message=message.message,
        priority=levels[message.level],
        level=message.level,
        offset=None if message.offset < 0 else message.offset,
        partition=message.partition,
        timestamp_ms=message.timestamp_ms or None,
        headers=message.headers,
        partition_key=message.key,
        state=together.state,
        ahead=together.ahead,
        deliveries=together.deliveries,
        due_ms=together.due_ms,
        expires_ms=view.expires_ms or None,
        consumers=behind[: request.limit],
        has_more=len(behind) > request.limit,
        index=index,
    )


def _state(part: ConsumersPart) -> ConsumerState:
    return ConsumerState(
        consumer=part.consumer,
        state=part.state,
        ahead=part.ahead,
        deliveries=part.deliveries,
        due_ms=part.until_ms if part.state == "delayed" else None,
        lease_ends_ms=part.until_ms if part.state == "leased" else None,
    )


def _waiting(view: MessageView) -> ConsumerState:
    """Where a message stands that has not entered its level."""
    return ConsumerState(consumer="", state="delayed", ahead=None, deliveries=0, due_ms=view.due_ms, lease_ends_ms=None)


def _together(states: Sequence[ConsumerState]) -> ConsumerState:
    """The least of what is ahead and of the times to wait, and the most deliveries that are known."""
    if not states:
        return ConsumerState(consumer="", state="ready", ahead=None, deliveries=0, due_ms=None, lease_ends_ms=None)
    state = min((each.state for each in states), key=ORDER.index)
    those = [each for each in states if each.state == state]
    return ConsumerState(
        consumer="",
        state=state,
        ahead=min((each.ahead for each in those if each.ahead is not None), default=None),
        deliveries=max((each.deliveries for each in states if each.deliveries is not None), default=None),
        due_ms=min((each.due_ms for each in those if each.due_ms is not None), default=None),
        lease_ends_ms=None,
    )
