"""Images of a split in a piece, and the altered copies that rare classes get."""

from collections.abc import Sequence

import pyarrow as pa

from data.augment import plan_copies
from data.phases.work import Work
from data.view.decide import placements_of

Copy = tuple[int, int, int]
"""(piece, row, number of the copy)"""


def images_of(work: Work, piece: int, split: str) -> pa.Table:
    """A split's images in a piece, mapped rather than read."""
    placements = placements_of(work.placements, piece)
    mask = pa.array([each == split for each in placements["split"].to_pylist()])
    with pa.memory_map(str(work.file("read", piece, "arrow"))) as source:
        return pa.ipc.open_file(source).read_all().filter(mask)


def choose_copies(work: Work, pieces: Sequence[int]) -> list[Copy]:
    """What to copy so that every class has its share: the samples of a rare class in turn."""
    rare = work.images.images.rare_classes
    assert rare
    rows: dict[str, list[tuple[int, int]]] = {}
    for piece in pieces:
        table = images_of(work, piece, "train").select(["row", "label"]).to_pydict()
        for row, label in zip(table["row"], table["label"], strict=True):
            rows.setdefault(label, []).append((piece, row))
    wanted = plan_copies({name: len(found) for name, found in rows.items()}, rare)
    return [
        (*rows[name][copy % len(rows[name])], copy // len(rows[name]))
        for name in sorted(wanted)
        for copy in range(wanted[name])
    ]
