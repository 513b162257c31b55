"""inspect: a data set in a few lines, any sample in full, and nothing in the data acts on the terminal."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tokenizers import Tokenizer

from configs.dataset import StoreConfig
from configs.folder import RunFolder
from configs.load import dump
from data.card.display import one_line, percent, short, size, visible
from data.card.pictures import draw, png
from data.inspect import main
from data.manifest import Manifest
from data.samples import decode
from data.shards import ShardReader
from data.store import open_store
from tests.corpus import sentences, tiny
from tests.handmade import BLOCK, image_set, seal, text_set

Prepared = tuple[RunFolder, Manifest]
HOSTILE = "\x1b[2J\x1b]0;title\x07 and \u202ereversed\u202c."


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return text_set(tmp_path_factory.mktemp("text") / "run", [HOSTILE, *sentences(34)])


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return image_set(tmp_path_factory.mktemp("images") / "run", classes=("cat", "\x1b[31mdog"))


def shown(*arguments: object, capsys: pytest.CaptureFixture[str]) -> str:
    assert main([str(word) for word in arguments]) == 0
    return capsys.readouterr().out


def test_the_summary_names_splits_shards_fields_and_digests(text: Prepared, capsys: pytest.CaptureFixture[str]):
    folder, manifest = text
    out = shown(folder.path, capsys=capsys)
    assert out == shown(folder.data, capsys=capsys)
    lines = dict(line.split(maxsplit=1) for line in out.splitlines() if line)
    assert lines["data"] == f"text in {folder.data}"
    assert (lines["digest"], lines["config"]) == (manifest.digest, "c" * 64)
    assert lines["source"] == "made up: 37 documents in 1 files, 1 kB"
    assert lines["fields"] == "tokens.npy"
    assert lines["tokenizer"].endswith(f"ends a document; blocks of {BLOCK}")
    assert "left out    too short 2" in out
    for name, split in manifest.splits.items():
        assert lines[name].startswith(
            f"{split.documents} documents, {split.samples} samples, {split.tokens:,} tokens; "
        )
        assert split.shards[0].name in lines[name]
    assert f"first samples of train, of {manifest.splits['train'].samples}" in out
    assert lines["0"].startswith("train-000000000  9 tokens  ")
    assert "\n     4  train-000000004  " in out
    assert "\n     5  " not in out


def test_of_folds_the_first_one_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder, manifest = text_set(tmp_path / "run", sentences(35))
    names = {"test": "test", "fold-0": "train", "fold-1": "validation"}
    seal(folder, manifest.model_copy(update={"splits": {new: manifest.splits[old] for new, old in names.items()}}))
    assert "first samples of fold-0, of " in shown(folder.path, capsys=capsys)


def test_count_and_split_choose_what_is_listed(images: Prepared, capsys: pytest.CaptureFixture[str]):
    out = shown(images[0].path, "--split", "test", "--count", 99, capsys=capsys)
    assert "classes     cat, \\x1b[31mdog (2)" in out
    assert out.splitlines()[-1].startswith("     4  test-000000004  cat  6 x 4 pixels, 3 channels  mean ")
    assert "\x1b" not in out


def test_a_text_sample_shows_ids_text_and_where_documents_end(text: Prepared, capsys: pytest.CaptureFixture[str]):
    folder, manifest = text
    split, tokenizer = manifest.splits["train"], Tokenizer.from_file(str(folder.tokenizer))
    reader = ShardReader(folder.data, split.shards, manifest.fields)
    ends = 0
    for number in range(0, len(reader), 7):
        out = shown(folder.path, "--sample", number, capsys=capsys)
        ids = decode(reader[number])["tokens"].tolist()
        shard, row = split.shards[number // 10], number % 10
        lines = out.splitlines()
        assert lines[0] == f"sample      {number} of train (0 to {len(reader) - 1})"
        assert lines[1] == f"key         train-{number:09d}"
        assert lines[2].startswith(f"shard       {shard.name}, sample {row} in it, at byte ")
        place = int(lines[2].rpartition(" ")[2].replace(",", ""))
        assert (folder.data / shard.name).read_bytes()[place:][:15] == f"train-{number:09d}".encode()
        assert " ".join(map(str, ids)) in " ".join(out.split())
        ends += out.count("── <|endoftext|> ──")
        assert out.count("── <|endoftext|> ──") == ids.count(manifest.text.end_of_document_id)
        assert "\x1b" not in out
        assert "\u202e" not in out
    assert ends > 1
    assert tokenizer.get_vocab_size() == 300


def test_a_grey_picture_stands_where_there_is_no_terminal_and_is_saved(
    images: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder, manifest = images
    out = shown(folder.path, "--sample", 11, "--save", tmp_path / "a.png", capsys=capsys)
    lines = out.splitlines()
    assert lines[2].startswith("shard       train-00001.tar, sample 1 in it, at byte ")
    assert lines[4] == "class       \\x1b[31mdog (1)"
    assert lines[5].startswith("image       6 x 4 pixels, 3 channels, mean ")
    assert [len(line) for line in lines[6:9]] == [4, 4, 4]
    assert lines[9] == f"written to {tmp_path / 'a.png'}"
    pixels = decode(ShardReader(folder.data, manifest.splits["train"].shards, manifest.fields)[11])["image"]
    assert (np.asarray(Image.open(tmp_path / "a.png")) == pixels).all()


def test_several_samples_are_shown_up_to_the_last(images: Prepared, capsys: pytest.CaptureFixture[str]):
    out = shown(images[0].path, "--split", "test", "--sample", 3, "--count", 9, capsys=capsys)
    assert [line for line in out.splitlines() if line.startswith("key")] == [
        "key         test-000000003",
        "key         test-000000004",
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--sample", "24"], "--sample 24: train has samples 0 to 23"),
        (["--sample", "-1"], "--sample -1: train has samples 0 to 23"),
        (["--split", "tests"], "has train, validation, test"),
        (["--count", "0"], "--count 0: at least one"),
        (["--save", "a.png"], "--save a.png: it needs --sample N"),
        (["--sample", "1", "--save", "a.jpg"], "--save a.jpg: it needs --sample N, and a name that ends in .png"),
    ],
)
def test_mistakes_are_exit_code_2_and_say_what_is_allowed(
    images: Prepared, options: list[str], words: str, capsys: pytest.CaptureFixture[str]
):
    assert main([str(images[0].path), *options]) == 2
    assert words in capsys.readouterr().err


def test_text_cannot_be_saved_as_an_image(text: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main([str(text[0].path), "--sample", "0", "--save", str(tmp_path / "a.png")]) == 2
    assert "are text, no images" in capsys.readouterr().err


def test_a_damaged_shard_is_exit_code_1(images: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder, _ = image_set(tmp_path / "run")
    path = folder.data / "test-00000.tar"
    content = bytearray(path.read_bytes())
    content[600] ^= 1
    path.write_bytes(content)
    assert main([str(folder.path), "--split", "test", "--sample", "0"]) == 1
    assert "test-00000.tar: sample 0 (at byte 0) is not what was written" in capsys.readouterr().err


def test_shards_in_a_store_are_read_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder, manifest = text_set(tmp_path / "run", sentences(35))
    local = shown(folder.path, "--sample", 3, capsys=capsys)
    url = StoreConfig(url=f"file://{tmp_path}/store").url
    for path in [*folder.data.glob("*.tar"), *folder.data.glob("*.index.npy")]:
        open_store(url).upload(path, path.name)
        path.unlink()
    assert main([str(folder.path)]) == 2
    assert "none of its shards is here; if they lie in an object store, give the run" in capsys.readouterr().err
    folder.config.write_text(dump(tiny(Path("a.txt"), data__store={"url": url})))
    assert shown(folder.path, "--sample", 3, capsys=capsys) == local
    assert f"shards in {url}" in shown(folder.data, capsys=capsys)
    assert manifest.splits["train"].samples


@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([1, 3]), st.integers(1, 40))
def test_a_picture_fits_the_columns_and_keeps_its_shape(height: int, width: int, channels: int, columns: int):
    pixels = np.full((height, width, channels), 255, np.uint8)
    drawn = min(width, columns)
    grey, colour = (list(draw(pixels, columns=columns, colour=each)) for each in (False, True))
    assert len(grey) == len(colour) == max(1, round(height * drawn / width / 2))
    assert set(grey) == {"@" * drawn}
    assert set(colour) == {"\x1b[38;2;255;255;255;48;2;255;255;255m▀" * drawn + "\x1b[0m"}


def test_a_small_png_keeps_its_shape_and_its_bytes():
    pixels = np.random.default_rng(0).integers(0, 256, (90, 60, 3), dtype=np.uint8)
    first, second = png(pixels, most=30), png(pixels, most=30)
    assert first == second
    with Image.open(io.BytesIO(first)) as image:
        assert image.size == (20, 30)


@given(st.text(st.characters(exclude_categories=())))
def test_no_character_that_acts_is_left(text: str):
    found = visible(text)
    assert visible(found) == found == found.encode().decode()
    assert not set(found) & {*map(chr, range(9)), *map(chr, range(11, 32)), "\x7f", "\x9b", "\u202e", "\u2066"}
    assert "\n" not in one_line(text, 30)
    assert len(one_line(text, 30)) <= 30


def test_numbers_are_short():
    assert [size(n) for n in (0, 999, 1000, 5_300_000, 2**50)] == ["0 bytes", "999 bytes", "1 kB", "5.3 MB", "1.1 PB"]
    assert [short(n) for n in (1, 1024, 20_000_000)] == ["1", "1k", "20M"]
    assert [percent(1, 8), percent(1, 10**6), percent(0, 9), percent(0, 0)] == ["12.5 %", "under 0.1 %", "0.0 %", "–"]


def trainworks(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipelines.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.slow
def test_trainworks_passes_words_and_exit_codes_through(text: Prepared, tmp_path: Path):
    done = trainworks("inspect", text[0].path, "--sample", 0)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("sample      0 of train")
    done = trainworks("inspect", tmp_path / "none")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"trainworks inspect: {tmp_path / 'none'} is not there; give a run folder")
    done = trainworks("verify", "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("usage: trainworks verify [-h] [--workers N] [--fast] DATA")
