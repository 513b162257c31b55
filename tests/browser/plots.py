"""What a test asks a page's plots."""

from typing import Any

from playwright.sync_api import Locator, Page

_INK = """(place) => {
  const deep = (e) => [e, ...[...(e.shadowRoot?.children ?? []), ...e.children].flatMap(deep)];
  let ink = 0;
  for (const canvas of deep(place).filter((e) => e.matches(".bk-Canvas > canvas, canvas.bk-layer:not(.bk-glyph)"))) {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    for (let i = 0; i < data.length; i += 4) {
      const rgb = data.subarray(i, i + 3);
      if (data[i + 3] && Math.max(...rgb) - Math.min(...rgb) > 40) ink += 1;
    }
  }
  return ink;
}"""
_VIEW = """(place) => {
  const find = (view) => [view, ...(view.child_views ?? [])].find((each) => each.model.type == "Figure");
  return find([...Bokeh.index].find((root) => root.el.parentElement == place));
}"""


def places(page: Page) -> list[Locator]:
    """The elements that plots are drawn in."""
    return page.locator("[id^=chart-]:not(h3)").all()


def ink(place: Locator) -> int:
    """Pixels of a plot that have a colour, and so are neither axis nor grid nor text."""
    return place.evaluate(_INK)


def steps(place: Locator) -> tuple[float, float]:
    """Both ends of what a plot shows of its horizontal axis."""
    start, end = place.evaluate(f"(place) => {{ const r = ({_VIEW})(place).model.x_range; return [r.start, r.end]; }}")
    return start, end


def lines(place: Locator, tag: str) -> list[dict[str, Any]]:
    """Renderers of a kind: whether each is visible, and its values."""
    return place.evaluate(
        f"""(place, tag) => ({_VIEW})(place).model.renderers.filter((each) => each.tags?.[1] == tag).map((each) =>
          ({{ name: each.name, visible: each.visible, y: [...each.data_source.data.y] }}))""",
        tag,
    )


def drawn_at(page: Page, title: str) -> Locator:
    """The plot below a heading."""
    return (
        page.locator("figure, .piece")
        .filter(has=page.get_by_role("heading", name=title, exact=True))
        .locator("[id^=chart-]:not(h3)")
    )
