"""Which run of W&B a stage of a run folder is: the same after every restart, wherever the folder lies."""

import os
import secrets
from dataclasses import dataclass

from configs.folder import RunFolder, write_json
from configs.schema import RunConfig
from configs.stages import read_record
from pipelines.tracking.server import Place

GROUP = "WANDB_RUN_GROUP"
"""Set by a step on a cluster: the pipeline run, which its job's label names too"""


@dataclass(frozen=True)
class Identity:
    """How W&B files a stage."""

    place: Place
    name: str
    group: str
    kind: str
    """prepare, train, fold or evaluate"""


def identity_of(run: RunConfig, folder: RunFolder, stage: str) -> Identity:
    """The identity that the folder keeps in logs/wandb.json, made at the first call."""
    root = root_of(folder)
    kind = "fold" if root != folder and stage == "train" else stage
    place = Place(run.wandb.project, run.wandb.entity, f"{token(folder)}-{stage}")
    fold = "" if root == folder else f"-{folder.path.name}"
    group = os.environ.get(GROUP) or f"{root.path.resolve().name}-{token(root)}"
    return Identity(place, f"{root.path.resolve().name}{fold}-{stage}", group, kind)


def token(folder: RunFolder) -> str:
    """What tells a folder from all others."""
    path = folder.logs / "wandb.json"
    if not path.is_file():
        folder.logs.mkdir(parents=True, exist_ok=True)
        write_json(path, {"token": secrets.token_hex(5)})
    return str(read_record(path)["token"])


def begin_anew(folder: RunFolder) -> None:
    """Forget the identity: the next call makes other runs."""
    (folder.logs / "wandb.json").unlink(missing_ok=True)


def root_of(folder: RunFolder) -> RunFolder:
    """The cross-validation that a fold is of; any other run itself."""
    above = folder.path.resolve().parent
    if above.name == folder.folds.name and (above.parent / folder.config.name).is_file():
        return RunFolder(above.parent)
    return folder
