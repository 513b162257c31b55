"""The page that compares runs, in a browser."""

from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from pipelines.comparison import write_comparison
from tests.browser.conftest import WIDTHS, Opener, photograph
from tests.browser.folders import trained
from tests.browser.plots import drawn_at, ink, lines, places
from tests.gated import evaluated


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    folders = []
    for number, name in enumerate(("first", "wider", "longer")):
        folder = evaluated(root, name, value=2.0 - 0.1 * number, units=[2.0 - 0.1 * number] * 40)
        trained(folder, seed=number, floor=2.0 - 0.1 * number)
        folders.append(folder)
    write_comparison(folders, root / "comparison.html")
    return root / "comparison.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", WIDTHS)
def test_the_page_is_whole_and_accessible(comparison: Path, opened: Opener, scheme: str, device: str):
    page = opened(comparison, scheme=scheme, width=WIDTHS[device])
    photograph(page, f"comparison-{scheme}-{device}")
    assert comparison.stat().st_size < 5_000_000
    assert min(ink(place) for place in places(page)) > 50
    assert page.evaluate("document.documentElement.scrollWidth") == WIDTHS[device]
    assert [each["id"] for each in Axe().run(page).response["violations"]] == []


def test_a_run_is_hidden_in_all_charts_by_one_name(comparison: Path, opened: Opener):
    page = opened(comparison)
    page.get_by_role("list", name="Legend of Loss").get_by_role("button", name="wider").click()
    for title in ("Loss", "Gradient norm"):
        legend = page.get_by_role("list", name=f"Legend of {title}")
        expect(legend.get_by_role("button", name="wider")).to_have_attribute("aria-pressed", "false")
        seen = {line["name"]: line["visible"] for line in lines(drawn_at(page, title), "means")}
        assert seen == {"first, train": True, "wider, train": False, "longer, train": True}
