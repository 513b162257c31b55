"""The pictures of the README and the docs, from the pages of runs: `python -m tests.browser.pictures [RUNS]`."""

import sys
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from tests.browser.conftest import CHROMIUM

IMAGES = Path(__file__).parents[2] / "docs" / "images"


@dataclass(frozen=True)
class Picture:
    page: str
    """In the folder of runs"""
    width: int
    height: int | None = None
    """Of a window's height, in pixels; the whole page where not given"""
    section: str | None = None
    """The id of the heading of the only section that is photographed"""
    scheme: str = "light"


PICTURES = {
    "overview": Picture("overview.html", 1200, 820),
    "report": Picture("demo-lm/report.html", 1100, 1400),
    "report-dark": Picture("demo-cnn/report.html", 1100, 1400, scheme="dark"),
    "report-phone": Picture("demo-cnn/report.html", 390, 1400),
    "through-training": Picture("demo-diffusion/report.html", 1100, section="through"),
    "comparison": Picture("comparison.html", 1100, 1100),
    "evaluation": Picture("evaluation.html", 1200, 790),
    "card": Picture("patches/data/card.html", 825),
}


def take(browser: Browser, picture: Picture, page_file: Path, output: Path) -> None:
    """Photograph a page as it is once its charts are drawn."""
    size = {"width": picture.width, "height": picture.height or 900}
    page = browser.new_page(viewport=size, color_scheme=picture.scheme)  # type: ignore[arg-type]
    page.goto(page_file.resolve().as_uri())
    if page.locator("#plots").count():
        page.wait_for_selector("html[data-drawn]", timeout=30_000)
    if picture.section:
        page.locator(f"section[aria-labelledby='{picture.section}']").screenshot(path=output)
    else:
        page.screenshot(path=output, full_page=picture.height is None)
    page.close()


def main(runs: Path) -> int:
    """Take each picture whose page is there; names the others."""
    if CHROMIUM is None:
        print("no Chromium on this machine: apt-get install chromium", file=sys.stderr)
        return 2
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for name, picture in PICTURES.items():
            if (runs / picture.page).exists():
                take(browser, picture, runs / picture.page, IMAGES / f"{name}.png")
                print(f"docs/images/{name}.png")
            else:
                print(f"{name}: left as it is, for there is no {runs / picture.page}")
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if sys.argv[1:] else Path("runs")))
