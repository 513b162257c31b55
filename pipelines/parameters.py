"""A run as pipeline parameters: text that every KFP backend carries unchanged."""

import json
from pathlib import Path
from urllib.parse import quote, unquote

from configs.errors import ConfigError
from configs.load import validate
from configs.schema import RunConfig

LIMIT_BYTES = 9_000  # of KFP's 10,000 for all parameters
EACH = "PIPELINE-RUN"
"""In a folder's name: the identity of the pipeline run, so that each has a folder of its own"""
_PLACEHOLDER = "{{$"  # what kfp would fill in
_REWRITTEN = "python3"  # kfp's local runner replaces this word wherever a parameter contains it


def encode_config(run: RunConfig) -> str:
    """The resolved config as JSON. Raises ConfigError when KFP would not carry it."""
    text = json.dumps(run.model_dump(mode="json"))
    if len(text) > LIMIT_BYTES:
        raise ConfigError(
            f"the resolved configuration has {len(text):,} bytes; a pipeline's parameters hold {LIMIT_BYTES:,}: "
            "shorten the longest texts, such as task.evaluation.sampling.prompts"
        )
    return text.replace(_REWRITTEN, "python\\u0033").replace(_PLACEHOLDER, "{{\\u0024")


def decode_config(text: str) -> RunConfig:
    return validate(json.loads(text))


def encode_folder(path: Path) -> str:
    """A folder on this machine as a file URI."""
    return "file://" + quote(str(path.resolve())).replace(_REWRITTEN, "python%33")


def decode_folder(folder: str, workspace: str, pipeline_run: str = "") -> Path:
    """The run folder: a file URI, or a name inside the pipeline's workspace, which may hold the pipeline run's own."""
    if folder.startswith("file://"):
        return Path(unquote(folder.removeprefix("file://")))
    return Path(workspace) / folder.replace(EACH, pipeline_run)
