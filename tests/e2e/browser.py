"""A real browser.

What lives here: starting Debian's chromium, and what it had to complain of.
Rules: without chromium a test is skipped, which the summary lists; with FALCONQ_REQUIRE_ALL it fails. It may ask
one address and nobody else, and is closed also when a test fails.
Must not know: what a page shows.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

import pytest
from playwright.async_api import Page, Route, async_playwright

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]


@dataclass(slots=True)
class Complaints:
    """What must not be."""

    console: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    """Addresses that were asked for and are not the node's."""


def chromium() -> str:
    """Its path; else the test is skipped, or fails where all must be there."""
    path = shutil.which("chromium")
    if path is None:
        text = "chromium is not installed (Debian: chromium)"
        if os.environ.get("FALCONQ_REQUIRE_ALL"):
            pytest.fail(text)
        pytest.skip(text)
    return path


@asynccontextmanager
async def browsing(
    url: str, *, scheme: Literal["light", "dark"] = "light", width: int = 1280
) -> AsyncIterator[tuple[Page, Complaints]]:
    """A page of a fresh browser that may ask this node alone."""
    complaints = Complaints()

    async def judge(route: Route) -> None:
        if route.request.url.startswith((url, "data:")):
            await route.continue_()
        else:
            complaints.elsewhere.append(route.request.url)
            await route.abort()

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        try:
            page = await browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 900})
            page.on("console", lambda message: complaints.console.append(message.text))
            page.on("pageerror", lambda error: complaints.console.append(str(error)))
            await page.route("**/*", judge)
            yield page, complaints
        finally:
            await browser.close()
