"""/v1/docs in a real browser: all of the contract is there, readable, and nothing comes from elsewhere."""

from __future__ import annotations

import asyncio
import os
import shlex
from pathlib import Path
from typing import Literal

import pytest

from falconq_cluster.gateway.openapi import each_operation
from tests.e2e.browser import browsing
from tests.unit.gateway.rig import running_gateway

CONTRAST_MIN = 4.5
"""WCAG 2.2, 1.4.3."""
CONTRAST = """() => {
  const channel = (value) => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const light = (rgb) => { const [r, g, b] = rgb.match(/[0-9.]+/g).map(Number).map(channel);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = (element) => { for (; element; element = element.parentElement) {
    const colour = getComputedStyle(element).backgroundColor;
    if (!/, 0\\)$/.test(colour) && colour !== "transparent") return colour; } return "rgb(255, 255, 255)"; };
  let least = [99, ""];
  for (const element of document.querySelectorAll("main *, nav *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.getClientRects().length) continue;
    const [a, b] = [light(getComputedStyle(element).color), light(behind(element))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < least[0]) least = [ratio, element.outerHTML.slice(0, 200)];
  }
  return least;
}"""


async def test_the_page_shows_every_operation_with_what_it_takes_and_gives() -> None:
    async with running_gateway() as rig, browsing(rig.url) as (page, complaints):
        await page.goto(f"{rig.url}/v1/docs")
        await page.wait_for_selector("body[data-ready]")
        for route, method, operation in each_operation(rig.gateway.router.routes):
            if method == "HEAD":
                continue
            article = page.locator(f"article:has(.method.{method}):has-text('{route.pattern}')")
            text = " ".join([await each.inner_text() for each in await article.all()])
            assert operation.summary in text
            for parameter in (*operation.parameters, *operation.headers):
                assert parameter.name in text, (route.pattern, parameter.name)
            for reply in operation.replies:
                assert f"{reply.status}" in text
            for code in operation.all_problems():
                assert code in text, (route.pattern, code)
        for name in rig.gateway.described.document["components"]["schemas"]:
            assert await page.locator(f"#shape-{name}").count() == 1, name
        whole = await page.locator("main").inner_text()
        assert not [word for word in ("[object", "undefined", "NaN") if word in whole]
        missing = await page.evaluate(
            "[...document.querySelectorAll('a[href^=\"#\"]')].map((a) => a.getAttribute('href').slice(1))"
            ".filter((id) => !document.getElementById(id))"
        )
        assert missing == []
    assert (complaints.console, complaints.elsewhere) == ([], [])


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 400), ("dark", 400)])
async def test_the_page_is_readable_in_light_and_dark_on_wide_and_narrow_screens(
    scheme: Literal["light", "dark"], width: int, tmp_path: Path
) -> None:
    async with running_gateway() as rig, browsing(rig.url, scheme=scheme, width=width) as (page, complaints):
        await page.goto(f"{rig.url}/v1/docs")
        await page.wait_for_selector("body[data-ready]")
        ratio, element = await page.evaluate(CONTRAST)
        assert ratio >= CONTRAST_MIN, element
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
        shots = Path(os.environ.get("FALCONQ_SHOTS", tmp_path))
        await page.screenshot(path=shots / f"docs-{scheme}-{width}.png")
        if scheme == "light":
            await page.locator("#createMessage").screenshot(path=shots / f"docs-operation-{width}.png")
    assert complaints.console == []


async def test_the_filter_leaves_what_has_the_word() -> None:
    async with running_gateway() as rig, browsing(rig.url) as (page, complaints):
        await page.goto(f"{rig.url}/v1/docs#peek")
        await page.wait_for_selector("body[data-ready]")
        await page.fill("#filter", "messages:batch")
        shown = await page.locator("#operations article:visible .path").all_inner_texts()
        assert [text.split() for text in shown] == [["POST", "/v1/topics/{topic}/messages:batch"]]
        assert await page.locator("#list li:visible").count() == 1
    assert complaints.console == []


async def test_every_command_on_the_page_works_as_it_stands() -> None:
    async with running_gateway() as rig, browsing(rig.url) as (page, _):
        await page.goto(f"{rig.url}/v1/docs")
        await page.wait_for_selector("body[data-ready]")
        commands = await page.locator("#operations pre").all_inner_texts()
        assert len(commands) >= 10
        for command in commands:
            words = shlex.split(command.replace("\\\n", " "))
            process = await asyncio.create_subprocess_exec(
                *words, "-s", "-o", "/dev/null", "-w", "%{http_code}", stdout=asyncio.subprocess.PIPE
            )
            status, _error = await process.communicate()
            assert status[:1] == b"2", (command, status)
