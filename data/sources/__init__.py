"""Where raw data comes from: files here or in an object store, tars, Hugging Face data sets, and what packages ship."""

from pathlib import Path
from typing import Literal

from configs.dataset import FileSource, HuggingFaceSource, PackagedSource, TarSource
from data.records import Source
from data.sources.files import Files
from data.sources.huggingface import HuggingFace
from data.sources.packaged import open_packaged
from data.sources.tars import Tars


def open_source(
    config: PackagedSource | FileSource | TarSource | HuggingFaceSource,
    kind: Literal["text", "images"],
    scratch: Path,
) -> Source:
    """The source that a config names; nothing is listed or fetched before it is asked for.

    `scratch` holds downloads: several processes may share it, and what lies there is used again after a kill.
    """
    match config:
        case PackagedSource():
            return open_packaged(config, kind, scratch)
        case FileSource():
            return Files(config, kind, scratch)
        case TarSource():
            return Tars(config, kind, scratch)
        case HuggingFaceSource():
            return HuggingFace(config, kind, scratch)
