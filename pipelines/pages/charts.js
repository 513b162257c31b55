// Draws the page's plots, and ties the page's own controls to them: legends, smoothing, zoom by button and by key.
const [documents, items] = JSON.parse(document.getElementById("plots").textContent);
const mouse = matchMedia("(pointer: fine)").matches;

Bokeh.embed.embed_items(documents, items).then((managers) => {
  const roots = managers.flatMap((manager) => [...manager]);
  const charts = roots.filter((root) => root.el.parentElement.id.startsWith("chart-")).map((root) => {
    const inside = [root, ...(root.child_views ?? [])].filter((view) => view.model.type == "Figure");
    return { place: root.el.parentElement, views: [...new Set(inside)] };
  });
  for (const chart of charts) {
    chart.views.forEach((view) => prepare(view, chart.place));
    const box = chart.place.closest("figure, .piece");
    for (const button of box.querySelectorAll(".legend button"))
      button.addEventListener("click", () => toggle(button, charts, chart));
  }
  for (const panel of document.querySelectorAll(".controls[data-curves]")) control(panel, charts);
  const views = charts.flatMap((chart) => chart.views);
  const repaint = () => views.forEach((view) => view.request_repaint());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
  document.documentElement.dataset.drawn = charts.length;
});

function prepare(view, place) {
  for (const tool of mouse ? view.model.toolbar.tools : []) if (tool.type == "BoxZoomTool") tool.active = true;
  const title = place.closest("figure, .piece").querySelector("h3").textContent;
  for (const element of deep(place)) {
    if (element.matches(".bk-OnOffButton, .bk-ClickButton")) asButton(element, title);
    if (element.matches(".bk-events")) asPlot(element, title, view);
  }
}

// Bokeh's elements stand in shadow roots.
function deep(element) {
  const inside = [...(element.shadowRoot?.children ?? []), ...element.children];
  return [element, ...inside.flatMap(deep)];
}

// Of Bokeh's tools, which take the focus and no key.
function asButton(element, title) {
  element.setAttribute("role", "button");
  element.setAttribute("aria-label", `${element.title}: ${title}`);
  element.addEventListener("keydown", (event) => {
    if (event.key != "Enter" && event.key != " ") return;
    event.preventDefault();
    element.click();
  });
}

function asPlot(element, title, view) {
  element.setAttribute("role", "application");
  element.setAttribute("aria-roledescription", "chart");
  element.setAttribute("aria-label", `${title}. Plus and minus zoom, left and right move, 0 shows all.`);
  const moves = { "+": [0.5, 0], "=": [0.5, 0], "-": [2, 0], ArrowLeft: [1, -0.25], ArrowRight: [1, 0.25], 0: null };
  element.addEventListener("keydown", (event) => {
    if (!(event.key in moves) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    zoom([view], moves[event.key]);
  });
}

// A factor on the width of what is seen, and a shift in widths; null shows all again.
function zoom(views, move) {
  if (move == null) return views.forEach((view) => view.reset());
  const range = views[0].model.x_range;
  const [width, middle] = [range.end - range.start, (range.end + range.start) / 2 + (range.end - range.start) * move[1]];
  range.setv({ start: middle - (width * move[0]) / 2, end: middle + (width * move[0]) / 2 });
}

const keyOf = (renderer) => renderer.tags?.[0] ?? renderer.name;

// A legend's button: of runs it speaks for every chart of its kind, else for its own.
function toggle(button, charts, own) {
  const shown = button.getAttribute("aria-pressed") != "true";
  const group = button.dataset.group;
  const buttons = group ? document.querySelectorAll(`.legend button[data-group="${group}"]`) : [button];
  for (const each of buttons)
    if (each.textContent.trim() == button.textContent.trim()) each.setAttribute("aria-pressed", shown);
  for (const view of group ? charts.flatMap((chart) => chart.views) : own.views)
    for (const renderer of view.model.renderers)
      if (keyOf(renderer) == button.textContent.trim()) show(renderer, shown);
}

const hidden = new Set();
let smoothing = null;

function show(renderer, shown) {
  shown ? hidden.delete(renderer) : hidden.add(renderer);
  renderer.visible = shown && !(renderer.tags?.[1] == "means" && width(renderer) <= 1);
}

function control(panel, charts) {
  const section = panel.closest("section");
  const views = charts.filter((chart) => section.contains(chart.place)).flatMap((chart) => chart.views);
  const curves = views.filter((view) => view.model.x_range == views[0].model.x_range);
  const moves = { in: [0.5, 0], out: [2, 0], earlier: [1, -0.25], later: [1, 0.25], all: null };
  for (const button of panel.querySelectorAll("button"))
    button.addEventListener("click", () => zoom(curves, moves[button.dataset.move]));
  const [slider, output] = [panel.querySelector("input"), panel.querySelector("output")];
  const shares = JSON.parse(slider.dataset.shares);
  slider.addEventListener("input", () => {
    smoothing = shares[slider.value];
    output.value = smoothing ? `mean over ${+(100 * smoothing).toFixed(1)} % of the steps` : "none";
    slider.setAttribute("aria-valuetext", output.value);
    smoothAll(curves);
  });
  smoothing = shares[slider.value];
}

function smoothAll(views) {
  for (const view of views) {
    const wide = new Set();
    for (const renderer of view.model.renderers.filter((each) => each.tags?.[1] == "means")) {
      const source = renderer.data_source;
      source.data = { ...source.data, y: smooth(source.data.mean, source.data.count, width(renderer)) };
      if (width(renderer) > 1) wide.add(renderer.name);
      renderer.visible = width(renderer) > 1 && !hidden.has(renderer);
    }
    for (const renderer of view.model.renderers.filter((each) => each.tags?.[1] == "noisy"))
      renderer.glyph.line_alpha = wide.has(renderer.name) ? 0.35 : 1;
  }
}

// The odd number of values that the share is of a curve's; 1 smooths nothing. As window() of pipelines/curves.py.
function width(renderer) {
  const count = renderer.data_source.data.count.reduce((a, b) => a + b, 0);
  return Math.floor((count * smoothing) / 2) * 2 + 1;
}

// The mean over so many values around the middle of each stretch. As smooth() of pipelines/curves.py.
function smooth(means, counts, width) {
  const [ends, sums] = [[0], [0]];
  means.forEach((mean, place) => {
    ends.push(ends[place] + counts[place]);
    sums.push(sums[place] + counts[place] * mean);
  });
  const total = ends.at(-1);
  const before = (count, from) => {
    while (ends[from + 1] < count) from += 1;
    const part = (count - ends[from]) / (ends[from + 1] - ends[from]);
    return [sums[from] + part * (sums[from + 1] - sums[from]), from];
  };
  let [low, high, lower, upper] = [0, 0, 0, 0];
  return Float64Array.from(means, (_, place) => {
    const middle = (ends[place] + ends[place + 1]) / 2;
    const [a, b] = [Math.max(middle - width / 2, 0), Math.min(middle + width / 2, total)];
    [lower, low] = before(a, low);
    [upper, high] = before(b, high);
    return (upper - lower) / (b - a);
  });
}
