"""A headless Chromium of the system, without a network; skips where there is none, and says so."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Route, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTHS = {"desktop": 1280, "phone": 390}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


Opener = Callable[..., Page]


@pytest.fixture
def opened(browser: Browser) -> Iterator[Opener]:
    """Opens a file with the network off; what the browser complains of, or asks for, fails the test at its end."""
    contexts, complaints = [], list[str]()

    def open_page(path: Path, *, scheme: str = "light", width: int = WIDTHS["desktop"], touch: bool = False) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": 800},
            color_scheme=scheme,  # type: ignore[arg-type]
            has_touch=touch,
            reduced_motion="reduce",
        )
        contexts.append(context)
        context.set_offline(True)
        page = context.new_page()

        def judge(route: Route) -> None:
            if route.request.url == path.resolve().as_uri():
                return route.continue_()
            complaints.append(f"asks for {route.request.url[:200]}")
            return route.abort()

        page.route(lambda url: not url.startswith(("data:", "blob:")), judge)
        page.on("console", lambda said: complaints.append(said.text) if is_complaint(said) else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(path.resolve().as_uri())
        if page.locator("#plots").count():
            page.wait_for_selector("html[data-drawn]", timeout=30_000)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def is_complaint(said: ConsoleMessage) -> bool:
    """Whether a page says that something is wrong; that these tests look at its pixels is not."""
    return said.type in ("error", "warning") and "willReadFrequently" not in said.text


def photograph(page: Page, name: str) -> None:
    """Keep a screenshot of the whole page where TRAINWORKS_SCREENSHOTS names a folder."""
    if folder := os.environ.get("TRAINWORKS_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)
