"""From what the machine shows of one message to what clients are told.

What lives here: where a message stands with each consumer, and with all of them together.
Rules: nothing is judged here.
Must not know: HTTP, how a message is found.
"""

from __future__ import annotations

from collections.abc import Sequence

from falconq_cluster.broker.message_requests import ConsumerState, ExplainedMessage, ExplainRequest
from falconq_cluster.machine.message_states import ConsumersPart
from falconq_cluster.machine.message_views import MessageView


def explained_message(
    request: ExplainRequest, view: MessageView, levels: Sequence[str], index: int
) -> ExplainedMessage:
    """The message and its consumers as the view has them."""
    message, together = view.message, _state(view.together)
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
        consumers=[_state(part) for part in view.consumers],
        has_more=view.has_more,
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
