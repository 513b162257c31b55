"""The resident copy of a rank's state, and the file that it becomes."""

import errno
import hashlib
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from trainer.checkpoint.snapshot import CHUNK_BYTES, DTYPES, Snapshot
from trainer.pieces import Piece


def whole(**tensors: Tensor) -> list[Piece]:
    return [Piece(name, tuple(tensor.shape), 0, tensor) for name, tensor in tensors.items()]


def written(path: Path, pieces: list[Piece]) -> Path:
    snapshot = Snapshot(pieces)
    snapshot.take(pieces, still=True)
    assert snapshot.write(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    return path


def test_whole_tensors_of_every_format_and_rank_load_with_the_safetensors_library(tmp_path: Path) -> None:
    tensors = {str(dtype): torch.arange(7).to(dtype) for dtype in DTYPES}
    tensors |= {"number": torch.tensor(3.5), "none": torch.zeros(0, 3), "cube": torch.randn(2, 3, 5)}
    found = load_file(written(tmp_path / "file", whole(**tensors)))
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert found[name].view(-1).view(torch.uint8).equal(tensor.reshape(-1).view(torch.uint8)), name


def test_images_laid_out_by_pixels_are_saved_row_by_row(tmp_path: Path) -> None:
    kernel = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    assert load_file(written(tmp_path / "file", whole(kernel=kernel)))["kernel"].equal(kernel)


def test_a_run_is_saved_flat_with_its_place_and_a_flat_whole_in_its_shape(tmp_path: Path) -> None:
    pieces = [
        Piece("part", (4, 5), 7, torch.arange(6.0)),
        Piece("rows", (4, 4), 9, torch.tensor([9.0])),
        Piece("rows", (4, 4), 1, torch.tensor([1.0, 2.0])),
        Piece("flat", (2, 3), 0, torch.arange(6.0)),
    ]
    path = written(tmp_path / "file", pieces)
    found = load_file(path)
    assert found["part"].equal(torch.arange(6.0))
    assert found["rows"].equal(torch.tensor([1.0, 2.0, 9.0]))
    assert found["flat"].equal(torch.arange(6.0).view(2, 3))
    with safe_open(path, "pt") as file:
        cuts = file.metadata()["cuts"]
    assert cuts == '{"part": {"shape": [4, 5], "runs": [[7, 6]]}, "rows": {"shape": [4, 4], "runs": [[1, 2], [9, 1]]}}'


def test_the_copy_stays_what_it_was_and_where_it_was_when_the_weights_move_on() -> None:
    weight = torch.nn.Parameter(torch.ones(5))
    snapshot = Snapshot(whole(weight=weight))
    place = snapshot.bytes.data_ptr()
    for value in (2.0, 3.0):
        weight.data.fill_(value)
        assert snapshot.fits(whole(weight=weight))
        snapshot.take(whole(weight=weight), still=True)
        weight.data.zero_()
        assert snapshot.bytes.view(torch.float32).tolist() == [value] * 5
        assert snapshot.bytes.data_ptr() == place


@pytest.mark.parametrize(
    "other",
    [
        whole(weight=torch.ones(6)),
        whole(weight=torch.ones(5).double()),
        whole(other=torch.ones(5)),
        whole(weight=torch.ones(5), more=torch.ones(1)),
        [Piece("weight", (9,), 4, torch.ones(5))],
    ],
)
def test_another_layout_does_not_fit(other: list[Piece]) -> None:
    assert not Snapshot(whole(weight=torch.ones(5))).fits(other)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e5m2])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_number_that_is_none_is_found_by_name(dtype: torch.dtype, value: float) -> None:
    bad = torch.ones(1000)
    bad[517] = value
    pieces = whole(a=torch.ones(9).to(dtype), b=bad.to(dtype), count=torch.ones(3, dtype=torch.int64))
    snapshot = Snapshot(pieces)
    snapshot.take(pieces, still=True)
    assert snapshot.not_finite() == "b"


def test_finite_numbers_whose_sum_is_not_are_no_fault() -> None:
    pieces = whole(large=torch.full((9,), 3e38), half=torch.full((9,), 6e4, dtype=torch.float16))
    snapshot = Snapshot(pieces)
    snapshot.take(pieces, still=True)
    assert snapshot.not_finite() is None


def test_a_format_that_no_file_can_hold_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match=r"odd is torch\.complex64"):
        Snapshot(whole(odd=torch.ones(2, dtype=torch.complex64)))


def test_files_of_many_chunks_are_whole_though_the_kernel_takes_and_gives_less_than_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = os.write
    monkeypatch.setattr(os, "write", lambda file, content: original(file, content[: max(1, len(content) // 2)]))
    tensor = torch.arange(CHUNK_BYTES // 2, dtype=torch.int32)  # two chunks
    assert load_file(written(tmp_path / "file", whole(tensor=tensor)))["tensor"].equal(tensor)


@pytest.mark.parametrize("fault", ["flipped", "cut", "longer"])
def test_what_the_disk_gives_back_is_compared_with_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    path, original = tmp_path / "file", os.fsync

    def spoil(descriptor: int) -> None:
        original(descriptor)
        content = path.read_bytes()
        last = bytes([content[-1] ^ 1])
        path.write_bytes({"flipped": content[:-1] + last, "cut": content[:-1], "longer": content + b"x"}[fault])

    monkeypatch.setattr(os, "fsync", spoil)
    pieces = whole(weight=torch.ones(5))
    with pytest.raises(OSError, match="gives back other bytes") as caught:
        Snapshot(pieces).write(path)
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(path))
