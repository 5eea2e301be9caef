"""The part of the recording service that is about one message.

What lives here: answers that are always the same, and what was asked.
Rules: as in rig.py.
Must not know: how the gateway works.
"""

from __future__ import annotations

from dataclasses import replace

from falconq_cluster.broker.message_requests import (
    ChangeRequest,
    ConsumerState,
    ExplainedMessage,
    ExplainRequest,
    MessageId,
)
from tests.unit.gateway.consumer_service import TIME_MS, RecordingConsumers

CONSUMERS = [
    ConsumerState(
        consumer="audit", state="leased", ahead=None, deliveries=2, due_ms=None, lease_ends_ms=TIME_MS + 30_000
    ),
    ConsumerState(consumer="billing", state="ready", ahead=7, deliveries=0, due_ms=None, lease_ends_ms=None),
]
EXPLAINED = ExplainedMessage(
    topic="orders",
    id="9.0",
    message=b'{"a": [1,  2.50, "\xc3\xa4"]}',
    priority="high",
    level=1,
    offset=4,
    partition=0,
    timestamp_ms=TIME_MS,
    headers=b'{"h":"v"}',
    partition_key="k",
    state="leased",
    ahead=None,
    deliveries=2,
    due_ms=None,
    expires_ms=TIME_MS + 60_000,
    consumers=CONSUMERS,
    has_more=False,
    index=25,
)


class RecordingMessages(RecordingConsumers):
    """Answers every request about one message the same way."""

    def __init__(self) -> None:
        super().__init__()
        self.explained = EXPLAINED

    async def explain_message(self, request: ExplainRequest) -> ExplainedMessage:
        self._take(request)
        known = [state for state in self.explained.consumers if state.consumer > request.after]
        page = known[: request.limit]
        return replace(
            self.explained,
            topic=request.topic,
            id=str(request.id),
            consumers=page,
            has_more=len(known) > len(page),
        )

    async def change_message(self, request: ChangeRequest) -> ExplainedMessage:
        self._take(request)
        return replace(self.explained, topic=request.topic, id=str(request.id), index=26)

    async def cancel_message(self, topic: str, message: MessageId, *, deadline_ms: int) -> int:
        self._take("cancel", topic, message)
        return 27
