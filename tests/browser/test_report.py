"""The report in a browser: offline, whole, light and dark, on a phone, by keyboard, and to a screen reader."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from configs.folder import RunFolder
from pipelines.curves import SMOOTHING, smooth, window
from pipelines.report import write_report
from tests.browser.conftest import WIDTHS, Opener, photograph
from tests.browser.folders import FAMILIES
from tests.browser.pictures import PICTURES, take
from tests.browser.plots import drawn_at, ink, lines, places, steps
from tests.reported import prepared


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """The report of a run of each family."""
    root, found = tmp_path_factory.mktemp("runs"), {}
    for name, make in FAMILIES.items():
        folder = make(root / name)
        write_report(folder)
        found[name] = folder.report
    return found


def serious(page: Page) -> list[str]:
    """What axe finds that keeps people from using a page; all of it is wanted to be nothing."""
    found = Axe().run(page).response["violations"]
    return [f"{each['impact']}: {each['id']}: {each['nodes'][0]['html'][:200]}" for each in found]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", WIDTHS)
def test_a_report_is_whole_accessible_and_as_wide_as_its_window(
    reports: Mapping[str, Path], opened: Opener, family: str, scheme: str, device: str
):
    assert reports[family].stat().st_size < 5_000_000
    page = opened(reports[family], scheme=scheme, width=WIDTHS[device])
    photograph(page, f"report-{family}-{scheme}-{device}")
    blank = [place.get_attribute("id") for place in places(page) if ink(place) < 50]
    assert places(page)
    assert blank == []
    assert page.evaluate("document.documentElement.scrollWidth") == WIDTHS[device]
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") == WIDTHS[device]
    assert serious(page) == []


def test_a_report_without_plots_is_accessible_too(tmp_path: Path, opened: Opener):
    folder = prepared(tmp_path / "run")
    write_report(folder)
    page = opened(folder.report, width=WIDTHS["phone"])
    assert serious(page) == []
    write_report(RunFolder(tmp_path))
    assert serious(opened(tmp_path / "report.html")) == []


def test_dragging_over_a_curve_zooms_all_of_them_and_the_tools_show_all_again(
    reports: Mapping[str, Path], opened: Opener
):
    page = opened(reports["lm"])
    loss, norm = drawn_at(page, "Loss"), drawn_at(page, "Gradient norm")
    before = steps(loss)
    loss.scroll_into_view_if_needed()
    box = loss.bounding_box()
    assert box
    page.mouse.move(box["x"] + 150, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 300, box["y"] + 200, steps=5)
    page.mouse.up()
    start, end = steps(loss)
    assert before[0] < start < end < before[1]
    assert steps(norm) == (start, end)
    loss.get_by_role("button", name="Reset: Loss").press("Enter")
    assert steps(loss) == pytest.approx(before)


def test_a_mouse_over_a_curve_is_told_its_values(reports: Mapping[str, Path], opened: Opener):
    page = opened(reports["lm"])
    loss = drawn_at(page, "Loss")
    loss.hover(position={"x": 250, "y": 120})
    tooltip = page.locator(".bk-Tooltip", has_text="train")
    photograph(page, "hover")
    expect(tooltip).to_be_visible()
    expect(tooltip).to_contain_text("step")


def test_a_name_in_a_legend_hides_its_curve_by_mouse_and_by_key(reports: Mapping[str, Path], opened: Opener):
    page = opened(reports["lm"])
    loss = drawn_at(page, "Loss")
    button = page.get_by_role("list", name="Legend of Loss").get_by_role("button", name="validation")
    shown = ink(loss)
    button.click()
    expect(button).to_have_attribute("aria-pressed", "false")
    assert [line["visible"] for line in lines(loss, "values")] == [False, False]  # the line and its dots
    page.wait_for_timeout(100)
    assert ink(loss) < shown
    button.press("Space")
    expect(button).to_have_attribute("aria-pressed", "true")
    assert all(line["visible"] for line in lines(loss, "values"))


def test_the_slider_smooths_the_curves_of_the_training_and_says_by_how_much(
    reports: Mapping[str, Path], opened: Opener
):
    page = opened(reports["lm"])
    loss = drawn_at(page, "Loss")
    slider = page.get_by_role("slider", name="Smoothing")
    values = np.array(lines(loss, "noisy")[0]["y"])
    for place, share in enumerate(SMOOTHING):
        slider.focus()
        slider.press("Home")
        for _ in range(place):
            slider.press("ArrowRight")
        told = f"mean over {100 * share:g} % of the steps" if share else "none"
        expect(slider).to_have_attribute("aria-valuetext", told)
        expect(page.locator("output[for=smoothing]")).to_have_text(told)
        (line,) = lines(loss, "means")
        width = window(len(values), share)
        assert line["visible"] == (width > 1)
        np.testing.assert_allclose(line["y"], smooth(values, np.ones(len(values)), width), rtol=1e-5)


def test_samples_of_one_step_at_a_time_are_seen_by_slider_and_by_button(reports: Mapping[str, Path], opened: Opener):
    page = opened(reports["lm"])
    slider = page.get_by_role("slider", name="Step")
    samples = page.locator(".at:visible")
    expect(samples).to_have_count(1)
    expect(samples).to_contain_text("after 400 steps")
    slider.press("Home")
    expect(samples).to_contain_text("after 100 steps")
    page.get_by_role("button", name="Next step").click()
    expect(samples).to_contain_text("after 200 steps")
    expect(slider).to_have_attribute("aria-valuetext", "step 200")


@pytest.mark.parametrize("name", ["report-phone", "through-training"])
def test_a_picture_for_the_docs_is_as_wide_as_it_says(
    browser: Browser, reports: Mapping[str, Path], tmp_path: Path, name: str
):
    take(browser, PICTURES[name], reports["diffusion"], tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as taken:
        width, height = taken.size
    assert PICTURES[name].width - 32 <= width <= PICTURES[name].width
    assert height >= 200


def test_the_first_smoothing_is_the_one_that_the_slider_makes(reports: Mapping[str, Path], opened: Opener):
    page = opened(reports["lm"])
    loss, slider = drawn_at(page, "Loss"), page.get_by_role("slider", name="Smoothing")
    first = lines(loss, "means")[0]["y"]
    slider.focus()
    slider.press("ArrowRight")
    assert lines(loss, "means")[0]["y"] != first
    slider.press("ArrowLeft")
    np.testing.assert_allclose(lines(loss, "means")[0]["y"], first, rtol=1e-5)


def test_a_curve_that_is_hidden_stays_hidden_when_it_is_smoothed(reports: Mapping[str, Path], opened: Opener):
    page = opened(reports["lm"])
    loss, slider = drawn_at(page, "Loss"), page.get_by_role("slider", name="Smoothing")
    page.get_by_role("list", name="Legend of Loss").get_by_role("button", name="train").click()
    slider.press("ArrowRight")
    assert not lines(loss, "means")[0]["visible"]


def test_buttons_and_keys_zoom_and_move_and_show_all(reports: Mapping[str, Path], opened: Opener):
    page = opened(reports["lm"])
    loss = drawn_at(page, "Loss")
    whole = steps(loss)
    width = whole[1] - whole[0]
    page.get_by_role("button", name="Zoom in").press("Enter")
    start, end = steps(loss)
    assert end - start == pytest.approx(width / 2)
    page.get_by_role("button", name="Later").press("Enter")
    assert steps(loss)[0] > start
    page.get_by_role("button", name="All steps").press("Enter")
    assert steps(loss) == pytest.approx(whole)
    plot = loss.get_by_role("application")
    plot.press("+")
    assert steps(loss)[1] - steps(loss)[0] == pytest.approx(width / 2)
    plot.press("0")
    assert steps(loss) == pytest.approx(whole)


def test_a_keyboard_reaches_the_content_at_once_and_every_control_with_its_focus_seen(
    reports: Mapping[str, Path], opened: Opener
):
    page = opened(reports["cnn"])
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_text("Skip to the content")
    assert page.locator(":focus").bounding_box()["x"] >= 0  # type: ignore[index]
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.tagName") == "MAIN"
    seen = set[str]()
    for _ in range(400):
        page.keyboard.press("Tab")
        name, outline = page.evaluate(_FOCUSED)
        if name is None:
            break
        assert outline, f"{name} has the focus, and nobody sees it"
        seen.add(name)
    assert {"smoothing", "Zoom in", "train", "Reset: Loss", "run.yaml, as resolved"} <= seen
    assert page.locator("main section[aria-labelledby]").count() >= 8


_FOCUSED = """() => {
  let e = document.activeElement;
  while (e?.shadowRoot?.activeElement) e = e.shadowRoot.activeElement;
  if (!e || e == document.body) return [null, true];
  const style = getComputedStyle(e);
  const seen = style.outlineStyle != "none" && parseFloat(style.outlineWidth) > 0;
  return [e.id || e.getAttribute("aria-label") || e.textContent.trim().slice(0, 60), seen];
}"""


def test_the_plots_follow_the_scheme(reports: Mapping[str, Path], opened: Opener):
    page = opened(reports["lm"])
    loss = drawn_at(page, "Loss")
    axis = """(place) => {
      const deep = (e) => [e, ...[...(e.shadowRoot?.children ?? []), ...e.children].flatMap(deep)];
      const canvas = deep(place).find((e) => e.tagName == "CANVAS");
      const { data } = canvas.getContext("2d").getImageData(0, 0, 60, canvas.height);
      let [sum, count] = [0, 0];
      for (let i = 0; i < data.length; i += 4) if (data[i + 3] > 200) { sum += data[i]; count += 1; }
      return sum / count;
    }"""
    light = loss.evaluate(axis)
    page.emulate_media(color_scheme="dark")
    page.wait_for_timeout(300)
    assert light < 130 < loss.evaluate(axis)  # text and axis are dark on light, then light on dark


def test_a_finger_scrolls_the_page_and_zooms_by_buttons(reports: Mapping[str, Path], opened: Opener):
    page = opened(reports["lm"], width=WIDTHS["phone"], touch=True)
    loss = drawn_at(page, "Loss")
    whole = steps(loss)
    page.get_by_role("button", name="Zoom in").tap()
    assert steps(loss)[1] - steps(loss)[0] == pytest.approx((whole[1] - whole[0]) / 2)
    page.get_by_role("list", name="Legend of Loss").get_by_role("button", name="train").tap()
    assert not lines(loss, "noisy")[0]["visible"]
