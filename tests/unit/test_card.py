"""The data card: complete, self-contained, the same bytes every time, and nothing in the data is more than text."""

import base64
import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from configs.folder import RunFolder
from configs.load import dump
from data.card import plots
from data.card.page import build_card, content, write_card
from data.card.pictures import png
from data.card.sections import chosen
from data.manifest import Manifest
from tests.corpus import sentences, tiny
from tests.handmade import finish, image_set, text_set, write_shards

SCRIPT = "<script>alert(1)</script>"
QUOTES = "\"'><img src=x onerror=alert(1)>"
VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """A page's elements; every one that is opened has to be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self._open or self._open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, Manifest]:
    return text_set(tmp_path_factory.mktemp("text") / "run", sentences(35), near_duplicate_rate=0.0125)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, Manifest]:
    return image_set(tmp_path_factory.mktemp("images") / "run")


def page(prepared: tuple[RunFolder, Manifest]) -> Page:
    return Page(build_card(*prepared))


def test_a_text_card_says_everything_that_the_manifest_and_the_statistics_say(text: tuple[RunFolder, Manifest]):
    found, manifest = page(text), text[1]
    split = manifest.splits["train"]
    for words in (
        "Data card made up",
        "Documents 35 of 37 that were read",
        "Nearly equal 1.25 % near duplicates, left out",
        "Vocabulary 300 tokens",
        f"train 24 68.6 % {split.samples} {split.bytes:,} {split.tokens:,} {split.words} 0 (0.0 %) 0",
        "2 of 37 documents were left out, by reason.",
        "too short 2 5.4 %",
        "Examples: too short a.txt:3 No.",
        "content in two splits 0 none, as it must be",
        "Used in training 60 (20.0 %)",
        "The commonest token stands 600 times, the rarest, of rank 60, 10.",
        "Frequency falls with rank to the power of 1.00",
        "Ġthe 600",
        manifest.digest,
        manifest.config,
        manifest.statistics,
        manifest.text.sha256,
        split.shards[0].blake3,
        "trainworks verify",
    ):
        assert words in found.text, words
    assert [tag for tag, _ in found.tags].count("svg") == 4


def test_an_image_card_shows_classes_weights_channels_and_pictures(images: tuple[RunFolder, Manifest]):
    found = page(images)
    for words in ("Image 6 x 4 3 channels", "red 0.5000 0.1000", "cat 12 3 3 1.250", "dog 12 3 2 1.250"):
        assert words in found.text, words
    pictures = [attributes for tag, attributes in found.tags if tag == "img"]
    assert [each["alt"] for each in pictures] == ["cat"] * 5 + ["dog"] * 5
    for each in pictures:
        kind, _, payload = (each["src"] or "").partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(payload).startswith(b"\x89PNG")
    assert "10 of 24 samples of train, spaced evenly in each class." in found.text


def test_the_card_has_the_same_bytes_wherever_it_is_made(tmp_path: Path):
    for make in (lambda path: text_set(path, sentences(35)), image_set):
        cards = []
        for name in ("a", "b"):
            folder, manifest = make(tmp_path / name / make.__name__)
            write_card(folder, manifest)
            cards.append((folder.data / "card.html").read_bytes())
            assert str(tmp_path).encode() not in cards[-1]
        assert cards[0] == cards[1]


def test_the_card_needs_nothing_but_itself(text: tuple[RunFolder, Manifest], images: tuple[RunFolder, Manifest]):
    for prepared in (text, images):
        card = build_card(*prepared)
        found = Page(card)
        outside = re.sub(r'src="data:[^"]*"', "", card)
        assert re.findall(r"https?:|//\w|@import|url\(", outside) == []
        assert {tag for tag, _ in found.tags} & {"script", "link", "iframe", "object", "form"} == set()
        sources = [each["src"] or "" for _, each in found.tags if "src" in each]
        assert all(source.startswith("data:image/png;base64,") for source in sources)
        assert len(card) < 2_000_000


def test_the_card_can_be_read_on_a_phone_in_the_dark_and_aloud(text: tuple[RunFolder, Manifest]):
    card, found = build_card(*text), page(text)
    assert 'name="viewport" content="width=device-width, initial-scale=1"' in card
    assert "@media (prefers-color-scheme: dark)" in card
    assert dict(found.tags)["html"]["lang"] == "en"
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    labels = " ".join(each.get("aria-labelledby") or "" for _, each in found.tags).split()
    targets = [(each.get("href") or "")[1:] for tag, each in found.tags if tag == "a"]
    assert set(labels + targets) <= set(ids)
    assert all(each.get("role") == "img" for tag, each in found.tags if tag == "svg")
    headings = [int(tag[1]) for tag, _ in found.tags if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(headings))


def test_markup_in_data_is_shown_and_never_acts(tmp_path: Path):
    folder, manifest = image_set(tmp_path / "images", classes=(SCRIPT, QUOTES))
    hostile = {"count": 2, "examples": [{"origin": f"{QUOTES}:1", "excerpt": f"{SCRIPT}\x00\u202e\ud800"}]}
    statistics: dict[str, Any] = {"drops": {SCRIPT: hostile}, "class_weights": {SCRIPT: 1.0, QUOTES: 1.0}}
    source = manifest.sources[0].model_copy(update={"description": SCRIPT})
    (folder.data / "statistics.json").write_text(json.dumps(statistics))
    manifest = manifest.model_copy(update={"dropped": {SCRIPT: 2}, "sources": (source,), "checks": {SCRIPT: 3}})
    card = build_card(folder, manifest)
    assert card.encode()
    found = Page(card)
    assert "script" not in {tag for tag, _ in found.tags}
    assert all(not name.startswith("on") for _, attributes in found.tags for name in attributes)
    assert all((each["src"] or "").startswith("data:") for tag, each in found.tags if tag == "img")
    assert found.text.count(SCRIPT) > 5
    assert r"\x00\u202e\ud800" in found.text
    assert f"Note: {SCRIPT}: 3" in found.text


def test_a_class_without_samples_in_a_split_is_a_note(tmp_path: Path):
    classes = tuple(f"c{number}" for number in range(7))
    found = page(image_set(tmp_path / "run", classes=classes))
    assert "Note: validation has no sample of 1 classes: c6" in found.text
    assert "Note: test has no sample of 2 classes: c5, c6" in found.text


def test_noise_in_many_classes_stays_below_two_megabytes(tmp_path: Path):
    folder, manifest = image_set(tmp_path / "run")
    pixels = np.random.default_rng(0).integers(0, 256, (70, 120, 110, 3), dtype=np.uint8)
    samples = [{"png": png(each), "cls": b"%d" % place} for place, each in enumerate(pixels)]
    labels = np.asarray(range(70), "<i4")
    buffer = folder.data / "train.labels.npy"
    np.save(buffer, labels)
    classes = tuple("n" * 500 + str(number) for number in range(70))
    split = manifest.splits["train"].model_copy(
        update={
            "samples": 70,
            "shards": write_shards(folder, "train", samples),
            "classes": dict.fromkeys(classes, 1),
            "labels": (
                manifest.splits["train"]
                .labels[0]
                .model_copy(update={"blake3": blake3(buffer.read_bytes()).hexdigest()}),
            ),
        }
    )
    images = manifest.images.model_copy(update={"height": 120, "width": 110}) if manifest.images else None
    about = {"kind": "images", "images": images, "classes": classes, "fields": ("png", "cls")}
    found = build_card(*finish(folder, {"train": split}, {}, **about))
    assert 500_000 < len(found) < 2_000_000
    assert Page(found).text.count("60 of 70 samples of train") == 1


def test_the_configuration_is_there_without_what_only_reading_needs(text: tuple[RunFolder, Manifest], tmp_path: Path):
    folder, manifest = text_set(tmp_path / "run", sentences(35))
    cards = []
    for store in (None, {"url": "s3://secret-bucket/folder"}):
        folder.config.write_text(dump(tiny(Path("a.txt"), data__store=store)))
        cards.append(build_card(folder, manifest))
    assert cards[0] == cards[1]
    assert "vocabulary_size: 300" in cards[0]
    assert "secret-bucket" not in cards[1]


def test_a_mixture_shows_its_parts_and_weights(text: tuple[RunFolder, Manifest]):
    folder, manifest = text
    parts = ("plays", "laws")
    sources = tuple(
        manifest.sources[0].model_copy(update={"part": part, "weight": weight})
        for part, weight in zip(parts, (0.75, 0.25), strict=True)
    )
    statistics = json.loads((folder.data / "statistics.json").read_text())
    statistics["parts"] = {"plays": {"train": 20, "test": 5}, "laws": {"train": 4, "validation": 6}}
    found = content(folder, manifest.model_copy(update={"sources": sources}), statistics)
    assert found["parts"].rows == [("plays", ["20", "0", "5"]), ("laws", ["4", "6", "0"])]
    assert [title for title, _ in found["sources"]] == ["plays: made up", "laws: made up"]
    assert ("Weight", "0.75, its relative share of the samples drawn") in found["sources"][0][1]


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=32).filter(any))
def test_bars_stay_in_the_frame_and_their_ticks_reach_above_them(counts: list[int]):
    plot = plots.histogram("lengths", counts, x_label="tokens", y_label="documents")
    assert all(plots.LEFT <= float(bar.x) <= plots.RIGHT for bar in plot.bars)
    assert all(plots.TOP - 0.1 <= float(bar.y) <= plots.BOTTOM for bar in plot.bars)
    assert 2 <= len(plot.y_ticks) <= 7
    assert len(plot.x_ticks) <= 9
    assert f"{sum(counts):,} documents" in plot.caption


@given(st.lists(st.tuples(st.integers(1, 10**9), st.integers(1, 10**12)), min_size=1, max_size=60))
def test_points_stay_in_the_frame(pairs: list[tuple[int, int]]):
    ranks = sorted({rank for rank, _ in pairs})
    counts = sorted((count for _, count in pairs), reverse=True)
    plot = plots.rank_frequency("tokens", list(zip(ranks, counts, strict=False)))
    assert all(plots.LEFT <= float(x) <= plots.RIGHT for x, _ in plot.points)
    assert all(plots.TOP <= float(y) <= plots.BOTTOM for _, y in plot.points)


@given(st.lists(st.integers(0, 90), max_size=300))
def test_pictures_are_of_each_class_and_few(labels: list[int]):
    found = chosen(labels, len(labels) or 500)
    assert len({place for place, _ in found}) == len(found) <= 60
    assert all(label is None or labels[place] == label for place, label in found)
    assert len({label for _, label in found}) == (min(60, len(set(labels))) if labels else 1)
