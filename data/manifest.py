"""What a prepared data set says of itself: the file that is written last and checked first."""

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from configs.errors import DamageError
from configs.folder import digest, file_digest
from configs.stages import read_record

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"


class Record(BaseModel):
    """Frozen and closed, as configs are."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Shard(Record):
    """One tar of samples and its offset index."""

    name: str
    sha256: str
    bytes: int
    samples: int
    index_sha256: str


class Split(Record):
    """One split's shards and what they hold."""

    documents: int
    tokens: int
    """Tokens to predict, end-of-document tokens among them"""
    bytes: int
    """UTF-8 bytes of the normalised documents"""
    words: int
    """Runs of characters between white space"""
    samples: int
    shards: tuple[Shard, ...]


class TokenizerRecord(Record):
    """Which tokenizer made the shards."""

    file: str
    sha256: str
    vocabulary_size: int
    end_of_document: str
    end_of_document_id: int


class SourceRecord(Record):
    """What was read."""

    description: str
    files: int
    bytes: int
    documents: int
    sha256: str


class Manifest(Record):
    """The whole data set; `digest` covers all other fields."""

    schema_version: int
    digest: str
    config: str
    """Digest of the `data` section that made it"""
    source: SourceRecord
    tokenizer: TokenizerRecord
    block_tokens: int
    fields: dict[str, str]
    """Each sample's fields and how their bytes are decoded"""
    splits: dict[str, Split]
    dropped: dict[str, int]
    """Documents left out, by reason"""


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
    tokenizer = path.parent / manifest.tokenizer.file
    if not tokenizer.exists() or file_digest(tokenizer) != manifest.tokenizer.sha256:
        raise DamageError(
            f"{tokenizer} is not the tokenizer that made the shards beside it (the manifest's sha256 is "
            f"{manifest.tokenizer.sha256[:12]}...); put that one back, or remove {path.name} and prepare again"
        )
    return manifest
