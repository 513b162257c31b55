"""The cases of the data stage: their corpus, what they call equal, and sides over small inputs."""

import contextlib
import gc
import json
import os
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from benchmarks import corpus, data_memory, data_samples
from benchmarks.__main__ import CASES, main
from benchmarks.data_samples import digest_of, pixels_differ, samples_differ
from benchmarks.data_text import BATCH, batches, blocks_differ, ids_differ
from benchmarks.harness import BenchmarkError, Case, Limit, Pair, Round, measure_limit, run

END = 0


def saved(path: Path, **arrays: np.ndarray) -> dict[str, str]:
    """Arrays in files, as a side's outputs name them."""
    for name, array in arrays.items():
        np.save(path / f"{name}.npy", array)
    return {name: str(path / f"{name}.npy") for name in arrays}


def grouped(documents: list[np.ndarray], length: int) -> np.ndarray:
    """What the peer keeps of documents: of each batch, whole blocks."""
    joined = [np.concatenate(documents[at : at + BATCH]) for at in range(0, len(documents), BATCH)]
    return np.concatenate([each[: len(each) // length * length] for each in joined])


@pytest.mark.parametrize("count", [BATCH - 1, BATCH, 2 * BATCH, 2 * BATCH + 7])
def test_blocks_are_equal_but_for_what_each_batch_of_the_peer_lost(tmp_path: Path, count: int) -> None:
    rng = np.random.default_rng(count)
    documents = [np.append(rng.integers(1, 99, rng.integers(1, 9)), END) for _ in range(count)]
    ours, peer = tmp_path / "ours", tmp_path / "peer"
    ours.mkdir()
    peer.mkdir()
    stream, others = np.concatenate(documents), grouped(documents, 4)
    mine, other = saved(ours, train=stream, test=stream), saved(peer, train=others, test=others)
    assert blocks_differ(mine, other, end=END, length=4) is None
    saved(peer, train=np.append(others[:-1], 99))
    assert "differ" in str(blocks_differ(mine, other, end=END, length=4))
    saved(peer, train=others[:-4])
    assert "differ" in str(blocks_differ(mine, other, end=END, length=4))


def test_ids_are_compared_one_by_one(tmp_path: Path) -> None:
    files = saved(tmp_path, ids=np.array([1, 2, 3]), short=np.array([1, 2]), other=np.array([1, 9, 3]))
    ours = {"ids": files["ids"]}
    assert ids_differ(ours, ours) is None
    assert "the peer's 2" in str(ids_differ(ours, {"ids": files["short"]}))
    assert "the first is number 1" in str(ids_differ(ours, {"ids": files["other"]}))


def test_pixels_may_be_one_level_apart(tmp_path: Path) -> None:
    pixels = np.full((1, 2, 2, 3), 255, np.uint8)
    files = saved(tmp_path, same=pixels, near=pixels - 1, far=pixels - 2)
    ours = {"pixels": files["same"]}
    assert pixels_differ(ours, {"pixels": files["near"]}) is None
    assert "2 levels" in str(pixels_differ(ours, {"pixels": files["far"]}))


def test_batches_hold_every_document_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.data_text._SLICE_BYTES", 10)
    documents = [str(number) * 4 for number in range(20)]
    assert [text for batch in batches(documents) for text in batch] == documents


def test_a_corpus_is_the_same_every_time_and_beyond_its_base_has_other_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "BASE_BYTES", 50_000)
    first, second = tmp_path / "first", tmp_path / "second"
    corpus.write_corpus(first, 140_000)
    corpus.write_corpus(second, 140_000)
    assert first.read_bytes() == second.read_bytes()
    assert 140_000 <= first.stat().st_size < 200_000
    texts = [json.loads(line)["text"] for line in first.read_text(encoding="utf-8").splitlines()]
    assert len(set(texts)) == len(texts)
    repeat = next(place for place, text in enumerate(texts[1:], 1) if len(text) == len(texts[0]))
    words, others = set(texts[0].split()), set(texts[repeat].split())
    assert len(words & others) < 0.2 * len(words)


def test_documents_meet_new_words_all_the_way() -> None:
    texts = list(islice(corpus.documents(0), 300))
    early, late = ({word for text in half for word in text.split()} for half in (texts[:200], texts[200:]))
    known = {word for part in corpus.parts() for word in part.split()}
    assert len(late - early - known) > 0.02 * sum(len(text.split()) for text in texts[200:])


@pytest.mark.parametrize(
    ("ours", "peer"),
    [("Write", "WriteWebdataset"), ("Read", "ReadWebdataset"), ("Decode", "DecodePillow")],
)
@pytest.mark.filterwarnings("ignore:.*unclosed file.*:ResourceWarning")  # webdataset leaves them to the collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_both_sides_have_equal_outputs(ours: str, peer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_samples, "SAMPLES", 25)
    monkeypatch.setattr(data_samples, "SHARD_SAMPLES", 10)
    monkeypatch.setattr(data_samples, "PICTURES", 3)
    mine, other = (getattr(data_samples, name)(tmp_path).round() for name in (ours, peer))
    check = pixels_differ if ours == "Decode" else samples_differ
    assert mine.amount == other.amount
    assert check(mine.outputs, other.outputs) is None
    gc.collect()


def test_digest_tells_keys_fields_and_bytes_apart() -> None:
    sample = {"jpg": b"ab", "cls": b"1"}
    others = [("k", sample), ("q", sample), ("k", {"jpg": b"a", "cls": b"b1"}), ("k", {"jpg": b"ab", "cls": b"2"})]
    assert len({digest_of([each]) for each in others}) == 4


def test_a_case_by_core_seconds_ignores_the_wall() -> None:
    pair = Pair(lambda: Round(100, 50.0, 1.0, None), lambda: Round(100, 1.0, 2.0, None))
    case = Case("a", "", "u", 2, (), lambda: contextlib.nullcontext(pair), lambda a, b: None, clock="cpu_s")
    result = run(case, 1, lambda line: None)
    assert (result.ours, result.peer, result.ratio, result.passed) == (100, 50, 2, True)


def test_a_limit_passes_below_it_and_fails_above_or_unmeasured() -> None:
    def refuse(say: object) -> float:
        raise BenchmarkError("the disk is full")

    lines: list[str] = []
    limits = [Limit("a", "", "GiB", 1, (), measure) for measure in (lambda say: 0.5, lambda say: 1.5, refuse)]
    results = [measure_limit(limit, lines.append) for limit in limits]
    assert [result.passed for result in results] == [True, False, False]
    assert results[0].ratio == 2
    assert any("the disk is full" in line for line in lines)
    assert main(["a"], [limits[0]]) == 0


def test_a_corpus_too_large_for_the_disk_is_refused_with_a_smaller_one() -> None:
    with pytest.raises(BenchmarkError, match=r"needs 4e\+09; .*data_memory 1"):
        data_memory.peak_gib(1e9, lambda line: None)


def test_memory_of_a_process_is_found_and_of_none_is_zero() -> None:
    assert data_memory.held_bytes(os.getpid()) > 10 << 20
    assert data_memory.held_bytes(2**31 - 1) == 0
    assert os.getpid() in data_memory.family(os.getppid())


def test_every_goal_of_the_data_stage_has_a_case() -> None:
    goals = {case.name: case.goal for case in CASES if case.name.startswith("data/")}
    assert goals == {
        "data/tokenise-datasets": 20,
        "data/encode-tokenizers": 5,
        "data/write-webdataset": 6,
        "data/read-webdataset": 9,
        "data/read-litdata": 1,
        "data/decode-pil": 1.4,
        "data/first-batch": pytest.approx(1 / 1.2),
        "data/memory": 1,
    }
