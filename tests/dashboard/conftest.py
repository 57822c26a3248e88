"""A real browser, Debian's Chromium, on the page as people get it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

PATIENCE_MS = 90_000
"""Machines that run tests are busy."""
WIDE, NARROW = (1280, 900), (390, 844)
QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--disable-gpu")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """For the length of a module: while it is there, this process runs no other event loop."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("NO CHROMIUM, THE DASHBOARD IS NOT TESTED: apt-get install chromium (make test does)")
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=chromium, args=[*QUIET, *sandbox], timeout=PATIENCE_MS)
        yield browser
        browser.close()


class Tab:
    """A page of the dashboard, and all that it asked for, said and opened."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.requests: list[str] = []
        self.faults: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("dialog", lambda dialog: self.faults.append(f"a dialog: {dialog.message}"))
        page.on("console", self._said)

    def _said(self, message: Any) -> None:
        if "Content Security Policy" in message.text or "Trusted" in message.text:
            self.faults.append(message.text)

    def view(self, name: str) -> Page:
        """Go to a view as people do."""
        self.page.get_by_role("navigation").get_by_role("link", name=name).click()
        expect(self.page.get_by_role("heading", level=1)).to_have_text(name)
        return self.page

    def fits(self) -> bool:
        """Nothing but tables scrolls sideways."""
        return bool(self.page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


@contextmanager
def tab(browser: Browser, url: str, size: tuple[int, int] = WIDE, colours: Any = "light") -> Iterator[Tab]:
    """The dashboard, opened; at the end it asked nobody but its own service, and nothing in it failed."""
    width, height = size
    with browser.new_context(viewport={"width": width, "height": height}, color_scheme=colours) as context:
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        opened = Tab(page, url)
        page.goto(url)
        yield opened
        assert [asked for asked in opened.requests if not asked.startswith(url)] == [], "it works offline"
        assert opened.faults == []
