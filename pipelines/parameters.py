"""A run as pipeline parameters: text that every KFP backend carries unchanged."""

import json
from pathlib import Path
from urllib.parse import quote, unquote

from configs.load import validate
from configs.schema import RunConfig

_REWRITTEN = "python3"  # kfp's local runner replaces this word wherever a parameter contains it


def encode_config(run: RunConfig) -> str:
    """The resolved config as JSON."""
    return json.dumps(run.model_dump(mode="json")).replace(_REWRITTEN, "python\\u0033")


def decode_config(text: str) -> RunConfig:
    return validate(json.loads(text))


def encode_folder(path: Path) -> str:
    """A folder on this machine as a file URI."""
    return "file://" + quote(str(path.resolve())).replace(_REWRITTEN, "python%33")


def decode_folder(folder: str, workspace: str) -> Path:
    """The run folder: a file URI, or a name inside the pipeline's workspace."""
    if folder.startswith("file://"):
        return Path(unquote(folder.removeprefix("file://")))
    return Path(workspace) / folder
