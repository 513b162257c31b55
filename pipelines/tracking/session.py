"""The one place that knows the wandb package: a run of W&B while it is open."""

import base64
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from pipelines.tracking.alerts import Alert
from pipelines.tracking.identity import Identity
from pipelines.tracking.records import Bundle, Table
from pipelines.tracking.rows import STEP
from pipelines.tracking.server import key

INIT_S, FINISH_S = 10, 30
"""How long wandb may take to begin, and to send what it has at the end"""
SHOWN = 32
"""Samples of a row"""
QUIET = {
    "silent": True,
    "console": "off",
    "init_timeout": INIT_S,
    "finish_timeout": FINISH_S,
    "x_transaction_log_flush_interval": 1,
    "x_file_stream_transmit_interval": 2,
    "x_disable_stats": True,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "disable_git": True,
    "disable_code": True,
    "save_code": False,
}


class Session(Protocol):
    """A run of W&B that takes rows from number `first` on."""

    first: int

    def row(self, number: int, time: float, values: Mapping[str, Any]) -> None: ...
    def artifact(self, bundle: Bundle) -> None: ...
    def alert(self, alert: Alert) -> None: ...
    def config(self, values: Mapping[str, Any]) -> None: ...
    def summary(self, values: Mapping[str, Any]) -> None: ...
    def finish(self, code: int) -> None: ...


class WandbSession:
    """An online run of W&B, begun or gone on with. Raises what wandb raises."""

    def __init__(self, identity: Identity, home: Path, config: Mapping[str, Any]) -> None:
        for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_ARTIFACT_DIR", "WANDB_DIR"):
            os.environ[name] = str(home)
        os.environ |= {"WANDB_X_DISABLE_VIEWER": "true", "WANDB_SILENT": "true"}
        import wandb

        self._run = wandb.init(
            project=identity.place.project,
            entity=identity.place.entity,
            id=identity.place.run,
            name=identity.name,
            group=identity.group,
            job_type=identity.kind,
            config=dict(config),
            mode="online",
            resume="allow",
            dir=str(home),
            settings=wandb.Settings(**QUIET, api_key=key()),
        )
        self.first = self._run.starting_step
        self._run.define_metric(STEP)
        self._run.define_metric("*", step_metric=STEP)

    def row(self, number: int, time: float, values: Mapping[str, Any]) -> None:
        """Send the next row, under the time at which it was logged."""
        self._run.log({**values, "_timestamp": time}, step=number)

    def artifact(self, bundle: Bundle) -> None:
        """Log what was made, or use what came in. The same files again are the same version."""
        import wandb

        artifact = wandb.Artifact(bundle.name, type=bundle.kind, metadata=dict(bundle.metadata))
        for path in bundle.files:
            artifact.add_file(str(path), name=path.name)
        if bundle.comes_in:
            self._run.use_artifact(artifact)
        else:
            self._run.log_artifact(artifact, aliases=list(bundle.aliases)).wait(FINISH_S)

    def alert(self, alert: Alert) -> None:
        self._run.alert(alert.title, alert.text, level=alert.level, wait_duration=0)

    def config(self, values: Mapping[str, Any]) -> None:
        self._run.config.update(dict(values), allow_val_change=True)

    def summary(self, values: Mapping[str, Any]) -> None:
        self._run.summary.update(dict(values))

    def finish(self, code: int) -> None:
        """Send the rest, for FINISH_S seconds at most, and end."""
        self._run.finish(exit_code=code)


def histogram(event: Mapping[str, Any]) -> dict[str, Any]:
    """What W&B draws of a histogram's event."""
    import numpy as np
    import wandb

    counts, edges = np.asarray(event["counts"]), np.asarray(event["edges"], dtype=float)
    return {f"histograms/{event['name']}": wandb.Histogram(np_histogram=(counts, edges))}


def samples(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Pictures as images, anything else as a table."""
    shown = records[:SHOWN]
    if pictures := [each for each in shown if "picture" in each]:
        import wandb
        from PIL import Image

        return {
            "samples": [
                wandb.Image(Image.open(io.BytesIO(_bytes(each["picture"]))), caption=_caption(each))
                for each in pictures
            ]
        }
    names = list(dict.fromkeys(name for each in shown for name in each))
    return {"samples": table(Table(names, [[_text(each.get(name)) for name in names] for each in shown]))}


def table(content: Table) -> Any:
    import wandb

    columns: list[Any] = [*content.columns]
    rows: list[Any] = [*content.rows]
    return wandb.Table(columns=columns, data=rows, allow_mixed_types=True)


def _bytes(picture: str) -> bytes:
    """The file in a data URI."""
    return base64.b64decode(picture.partition(",")[2])


def _caption(record: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in record.items() if name != "picture" and value is not None)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
