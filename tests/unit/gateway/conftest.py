"""The gateway that most tests use."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.unit.gateway.rig import Rig, running_gateway


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with running_gateway() as running:
        yield running
