"""The look of a report: one HTML page, its style and its script; every value is escaped as it is put in."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bokeh.resources import Resources
from jinja2 import Environment, StrictUndefined

# Bokeh reads --bk-... for what it draws, so the charts follow the page into the dark.
STYLE = """
:root { color-scheme: light dark; --ground: #fff; --text: #1b1f24; --quiet: #57606a; --line: #d0d7de; --soft: #f3f5f7;
  --accent: #0b62b8; --warn: #9a3b00; --bk-grid-line-color: var(--line); --bk-outline-line-color: var(--line);
  --bk-axis-line-color: var(--quiet); --bk-major-tick-line-color: var(--quiet); --bk-minor-tick-line-color: var(--line);
  --bk-axis-label-text-color: var(--quiet); --bk-major-label-text-color: var(--quiet);
  --bk-label-text-color: var(--text); }
@media (prefers-color-scheme: dark) {
  :root { --ground: #14171b; --text: #e6e9ec; --quiet: #a3adb7; --line: #3a424b; --soft: #1e2329; --accent: #6cb6ff;
    --warn: #ffb27a; }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 70rem; padding: 1rem 1rem 4rem; background: var(--ground); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0.5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 0.75rem; padding-bottom: 0.25rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.25rem 0 0.25rem; }
a { color: var(--accent); }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
nav ul { display: flex; flex-wrap: wrap; gap: 0.25rem 1.25rem; list-style: none; margin: 1rem 0; padding: 0; }
nav a { display: inline-block; padding: 0.25rem 0; }
.state { color: var(--quiet); margin: 0; overflow-wrap: anywhere; }
.verdict { font-size: 1.15rem; max-width: 45rem; }
.warning { color: var(--warn); }
.missing { border-left: 4px solid var(--line); color: var(--quiet); padding: 0.25rem 0.75rem; }
.cards { display: grid; gap: 0.75rem; grid-template-columns: repeat(auto-fit, minmax(min(15rem, 100%), 1fr));
  padding: 0; margin: 1rem 0; }
.cards > div { background: var(--soft); border-radius: 8px; padding: 0.75rem 1rem; }
.cards dt { color: var(--quiet); }
.cards dd { margin: 0; font-size: 1.5rem; font-variant-numeric: tabular-nums; }
.cards dd + dd { font-size: 0.9rem; color: var(--quiet); }
.facts { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 0.15rem 1rem; margin: 0.5rem 0 1rem; }
.facts dt { color: var(--quiet); }
.facts dd { margin: 0; overflow-wrap: anywhere; }
.charts { display: grid; gap: 1rem 2rem; grid-template-columns: repeat(auto-fit, minmax(min(28rem, 100%), 1fr)); }
figure { margin: 0; min-width: 0; }
.pictures { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); }
.pictures img { width: 8rem; height: 8rem; object-fit: contain; image-rendering: pixelated; }
figcaption { color: var(--quiet); font-size: 0.85rem; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin: 0.75rem 0; container-type: inline-size; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--quiet); font-size: 0.9rem; padding-bottom: 0.4rem; }
caption span { display: inline-block; max-width: 100cqi; position: sticky; left: 0; }
th, td { padding: 0.35rem 0.75rem 0.35rem 0; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
.numbers th + th, .numbers td { text-align: right; white-space: nowrap; padding-left: 0.75rem; }
thead th { vertical-align: bottom; }
thead small { display: block; color: var(--quiet); font-weight: normal; }
.digests td { font-family: ui-monospace, monospace; font-size: 0.85rem; overflow-wrap: anywhere; min-width: 7rem; }
.digests td + td { font-family: inherit; font-size: inherit; }
pre { background: var(--soft); border-radius: 8px; margin: 0.5rem 0; padding: 0.75rem 1rem;
  font: 0.875rem/1.45 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
.sample b { color: var(--accent); text-decoration: underline dotted; text-underline-offset: 0.2em; }
summary { cursor: pointer; padding: 0.4rem 0; }
"""

SCRIPT = """
const [documents, items] = JSON.parse(document.getElementById("plots").textContent);
const mouse = matchMedia("(pointer: fine)").matches;
Bokeh.embed.embed_items(documents, items).then((managers) => {
  const views = managers.flatMap((manager) => [...manager]).filter((view) => view.model.type == "Figure");
  for (const view of mouse ? views : [])
    for (const tool of view.model.toolbar.tools) if (tool.type == "BoxZoomTool") tool.active = true;
  const repaint = () => views.forEach((view) => view.request_repaint());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
});
"""

TEMPLATE = """
{%- macro table(t, kind) %}
<div class="scroll" role="region" aria-label="{{ t.caption }}" tabindex="0">
<table class="{{ kind }}">
<caption><span>{{ t.caption }}</span></caption>
<thead><tr>
{% for name, note in t.head %}
<th scope="col">{{ name }}{% if note %}<small>{{ note }}</small>{% endif %}</th>
{% endfor %}
</tr></thead>
<tbody>
{% for first, cells in t.rows %}
{% set row = loop.index0 %}
<tr><th scope="row">{{ first }}</th>
{%- for cell in cells %}
<td>{% if (row, loop.index0) in t.strong %}<strong>{{ cell }}</strong>{% else %}{{ cell }}{% endif %}</td>
{%- endfor %}</tr>
{% endfor %}
</tbody>
</table>
</div>
{%- endmacro %}
{%- macro facts(pairs) %}
<dl class="facts">
{% for name, value in pairs %}
<dt>{{ name }}</dt><dd>{{ value }}</dd>
{% endfor %}
</dl>
{%- endmacro -%}
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; \
script-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ name }}: training report</title>
<style>{{ style | safe }}</style>
</head>
<body>
<header>
<p class="state">Training report</p>
<h1>{{ name }}</h1>
{% if verdict %}
<p class="verdict">{{ verdict }}</p>
{% endif %}
{% for warning in warnings %}
<p class="warning"><strong>Note:</strong> {{ warning }}</p>
{% endfor %}
{% if cards %}
<dl class="cards">
{% for card in cards %}
<div><dt>{{ card.name }}</dt><dd>{{ card.value }}</dd><dd>{{ card.note }}</dd></div>
{% endfor %}
</dl>
{% endif %}
{{ facts(about) }}
</header>
<nav aria-label="Sections"><ul>
{% for id, title in sections %}
<li><a href="#{{ id }}">{{ title }}</a></li>
{% endfor %}
</ul></nav>
<main>
{% for id, title in sections %}
<section aria-labelledby="{{ id }}">
<h2 id="{{ id }}">{{ title }}</h2>
{% if missing[id] %}
<p class="missing">{{ missing[id] }}</p>
{% elif id == "charts" %}
<p class="state">Click a name in a legend to hide its curve; the tools beside each chart zoom and reset.</p>
<noscript><p class="missing">The charts need JavaScript; their captions and the tables say the same.</p></noscript>
<div class="charts">
{% for element, chart in charts %}
<figure aria-labelledby="{{ element }}-title">
<h3 id="{{ element }}-title">{{ chart.title }}</h3>
<div id="{{ element }}"></div>
<figcaption>{{ chart.caption }}</figcaption>
</figure>
{% endfor %}
</div>
{% elif id == "metrics" %}
{{ table(metrics, "numbers") }}
{% for id, pairs in protocols %}
<details><summary>Protocol {{ id }}</summary>{{ facts(pairs) }}</details>
{% endfor %}
{% elif id == "samples" %}
{% if samples[0].picture is defined %}
<p class="state">Pictures of the test split and what the model made of them.</p>
<div class="pictures">
{% for sample in samples %}
<figure><img src="{{ sample.picture }}" alt="Sample {{ loop.index }}">
<figcaption>
{% for name, value in sample.items() if name != "picture" %}
{{ name }}: {{ value }}{% if not loop.last %}<br>{% endif %}

{% endfor %}
</figcaption></figure>
{% endfor %}
</div>
{% else %}
<p class="state">A prompt is underlined; what follows it was written by the model.</p>
{% for sample in samples %}
<h3>Sample {{ loop.index }}</h3>
{% if sample.text is defined %}
<pre class="sample"><b>{{ sample.prompt | default("") }}</b>{{ sample.text }}</pre>
{% else %}
{{ facts(sample.items()) }}
{% endif %}
{% endfor %}
{% endif %}
{% elif id == "data" %}
{% for title, pairs in data.facts %}
<h3>{{ title }}</h3>
{{ facts(pairs) }}
{% endfor %}
{{ table(data.splits, "numbers") }}
<details><summary>Digests of the shards</summary>{{ table(data.shards, "digests") }}</details>
{% elif id == "configuration" %}
<details><summary>run.yaml, as resolved</summary>
<pre>{{ configuration }}</pre></details>
{% else %}
{{ table(chain, "digests") }}
{% endif %}
</section>
{% endfor %}
</main>
{% if charts %}
{{ library | safe }}
<script type="application/json" id="plots">{{ plots | safe }}</script>
<script>{{ script | safe }}</script>
{% endif %}
</body>
</html>
"""


@dataclass(frozen=True)
class Table:
    """What one table shows."""

    caption: str
    head: Sequence[tuple[str, str]]
    """Each column's name and a note below it, the row names' column first"""
    rows: Sequence[tuple[str, Sequence[str]]]
    """Each row's name and its other cells"""
    strong: frozenset[tuple[int, int]] = frozenset()
    """Row and cell, from 0, of what stands out"""


def render(**content: Any) -> str:
    """The page. Raises UndefinedError when a piece is neither given nor said to be missing."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    library = Resources(mode="inline", components=["bokeh"], minified=True, log_level="error").render_js()
    return environment.from_string(TEMPLATE).render(style=STYLE, script=SCRIPT, library=library, **content)
