"""What a prepared data set says of itself: the file that is written last and checked first."""

import json
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from configs.dataset import SplitConfig
from configs.errors import ConfigError, DamageError
from configs.folder import digest, file_digest
from configs.stages import read_record

SCHEMA_VERSION = 3
MANIFEST = "manifest.json"
STATISTICS = "statistics.json"
ASSIGNMENTS = "assignments.parquet"
CARD = "card.html"


class Part(BaseModel):
    """Frozen and closed, as configs are."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Shard(Part):
    """One tar of samples and its index of offsets and checksums."""

    name: str
    blake3: str
    bytes: int
    samples: int
    index_blake3: str
    part: str = ""
    """The part of a mixture that its samples are of"""


class PixelSums(Part):
    """Sums over pixels by channel, in exact integers: in whatever order they are added, the numbers are the same."""

    count: int
    """Pixels"""
    sums: tuple[int, ...]
    square_sums: tuple[int, ...]

    def __add__(self, other: "PixelSums") -> "PixelSums":
        return PixelSums(
            count=self.count + other.count,
            sums=_added(self.sums, other.sums),
            square_sums=_added(self.square_sums, other.square_sums),
        )

    @property
    def mean(self) -> tuple[float, ...]:
        """Per channel, on the scale 0..1."""
        return tuple(total / self.count / 255 for total in self.sums)

    @property
    def std(self) -> tuple[float, ...]:
        """Per channel, on the scale 0..1; the variance is taken of integers, so nothing cancels."""
        pairs = zip(self.sums, self.square_sums, strict=True)
        return tuple((self.count * squares - total * total) ** 0.5 / self.count / 255 for total, squares in pairs)


def _added(first: Sequence[int], second: Sequence[int]) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip(first, second, strict=True))


class Labels(Part):
    """The class of each sample of a split, as numbers in a .npy file."""

    file: str
    blake3: str


class Split(Part):
    """One split's or fold's shards and what they hold."""

    documents: int
    """Documents or images, copies not counted"""
    bytes: int
    """UTF-8 bytes of the cleaned documents, or bytes of the stored images"""
    samples: int
    shards: tuple[Shard, ...]
    tokens: int = 0
    """Tokens to predict, end-of-document tokens among them"""
    words: int = 0
    """Runs of characters between white space"""
    unknown_tokens: int = 0
    """Tokens that stand for what the vocabulary does not have"""
    cut_tokens: int = 0
    """Tokens past the end of a block, left out where one document is one sample"""
    classes: dict[str, int] = {}
    """Samples of each class, copies among them"""
    tags: dict[str, int] = {}
    """Tokens of each tag"""
    labels: tuple[Labels, ...] = ()
    pixels: PixelSums | None = None

    def __add__(self, other: "Split") -> "Split":
        counts = ("documents", "bytes", "samples", "tokens", "words", "unknown_tokens", "cut_tokens")
        return Split(
            **{name: getattr(self, name) + getattr(other, name) for name in counts},
            shards=self.shards + other.shards,
            classes={name: self.classes[name] + other.classes[name] for name in self.classes},
            tags={name: self.tags[name] + other.tags[name] for name in self.tags},
            labels=self.labels + other.labels,
            pixels=self.pixels + other.pixels if self.pixels and other.pixels else None,
        )


class TokenizerRecord(Part):
    """Which tokenizer made the shards."""

    file: str
    sha256: str
    vocabulary_size: int
    end_of_document: str
    end_of_document_id: int
    special: dict[str, int] = {}
    """Ids of all special tokens by what they are for"""


class ImagesRecord(Part):
    """What every image is."""

    height: int
    width: int
    channels: int
    mean: tuple[float, ...]
    """Of the train split, per channel, on the scale 0..1"""
    std: tuple[float, ...]


class SourceRecord(Part):
    """What was read."""

    description: str
    files: int
    bytes: int
    documents: int
    digest: str
    """Digest of the pieces' BLAKE3 digests over every raw byte"""
    part: str = ""
    weight: float | None = None
    repeat: int | None = None


class Manifest(Part):
    """The whole data set; `digest` covers all other fields."""

    schema_version: int
    digest: str
    kind: str
    """text or images"""
    config: str
    """Digest of the `data` section that made it"""
    sources: tuple[SourceRecord, ...]
    tokenizer: TokenizerRecord | None = None
    images: ImagesRecord | None = None
    block_tokens: int = 0
    document_ids: bool = False
    fields: tuple[str, ...]
    """Each sample's fields, by file extension"""
    classes: tuple[str, ...] = ()
    """Their names; a label is a place in this list"""
    tags: tuple[str, ...] = ()
    """Names of what tokens can be; a tag is a place in this list, of which the first is for what has none"""
    splits: dict[str, Split]
    dropped: dict[str, int]
    """Documents left out, by reason"""
    near_duplicate_rate: float | None = None
    """Share of documents that were nearly equal to an earlier one, where that was looked for"""
    checks: dict[str, int]
    """What was looked for in two splits at once, and how often it was found"""
    statistics: str = ""
    """BLAKE3 of statistics.json, from which the data card is drawn"""
    assignments: str = ""
    """BLAKE3 of assignments.parquet, by which a later data set leaves every sample where it is"""

    def view(self, splits: SplitConfig) -> "Manifest":
        """The same data set with splits named train, validation and test.

        With folds, the held-out one is the test split and the others train; the share that was put aside for the final
        test is left out. Raises ConfigError when no fold is held out, or one that is not there.
        """
        folds = sorted((name for name in self.splits if name.startswith("fold-")), key=lambda name: int(name[5:]))
        if not folds:
            return self
        if splits.folds is None or splits.folds.held_out is None:
            raise ConfigError(
                "data.splits.folds trains a model for each fold, which `trainworks run` does; to look at one of them "
                "alone, give data.splits.folds.held_out=0 to its last"
            )
        held_out = f"fold-{splits.folds.held_out}"
        if held_out not in folds:
            raise ConfigError(f"data.splits.folds.held_out: {held_out} is not one of {', '.join(folds)}")
        train = reduce(Split.__add__, (self.splits[name] for name in folds if name != held_out))
        images = self.images
        if images and train.pixels:
            images = images.model_copy(update={"mean": train.pixels.mean, "std": train.pixels.std})
        validation = {name: split for name, split in self.splits.items() if name == "validation"}
        roles = {"train": train} | validation | {"test": self.splits[held_out]}
        return self.model_copy(update={"splits": roles, "images": images})

    @property
    def text(self) -> TokenizerRecord:
        """The tokenizer of a text data set."""
        assert self.tokenizer, "the task reads text, so that the configuration is refused without it"
        return self.tokenizer

    def weights(self) -> Mapping[str, float | None]:
        """Each part's weight, None where parts are mixed by repeat count or there is one source."""
        return {source.part: source.weight for source in self.sources}


def split_digest(manifest: Manifest, name: str) -> str:
    """sha256 over what a split holds, and nothing of where it came from: equal samples have equal digests."""
    return digest([[shard.blake3, shard.samples] for shard in manifest.splits[name].shards])


def content_digest(manifest: Manifest) -> str:
    """sha256 of all fields but `digest`."""
    return digest(manifest.model_copy(update={"digest": ""}).model_dump(mode="json"))


def read_manifest(path: Path) -> Manifest:
    """Raises DamageError when the file is not a manifest of this version, or the tokenizer beside it is another."""
    if not path.exists():
        raise DamageError(f"{path} is missing: the data is not prepared; run `trainworks prepare` first")
    record = read_record(path)
    if (got := record.get("schema_version")) != SCHEMA_VERSION:
        raise DamageError(
            f"{path} has schema_version={got}, this trainworks reads {SCHEMA_VERSION}; remove it and prepare again"
        )
    try:
        manifest = Manifest.model_validate_json(json.dumps(record))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DamageError(f"{path} is not a manifest: {where}: {first['msg']}; remove it and prepare again") from None
    if content_digest(manifest) != manifest.digest:
        raise DamageError(f"{path} was changed after it was written (its digest differs); remove it and prepare again")
    if manifest.tokenizer:
        _check_tokenizer(path, manifest.tokenizer)
    return manifest


def _check_tokenizer(path: Path, record: TokenizerRecord) -> None:
    tokenizer = path.parent / record.file
    if not tokenizer.exists() or file_digest(tokenizer) != record.sha256:
        raise DamageError(
            f"{tokenizer} is not the tokenizer that made the shards beside it (the manifest's sha256 is "
            f"{record.sha256[:12]}...); put that one back, or remove {path.name} and prepare again"
        )
