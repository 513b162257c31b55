"""The run folder: where each file lies, and how files are written so that nobody ever reads half of one."""

import contextlib
import fcntl
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import ConfigError, UserError

if TYPE_CHECKING:
    from configs.schema import RunConfig


@dataclass(frozen=True)
class RunFolder:
    """Names of everything that a run leaves behind."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "run.yaml"

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def manifest(self) -> Path:
        return self.data / "manifest.json"

    @property
    def tokenizer(self) -> Path:
        return self.data / "tokenizer.json"

    @property
    def train(self) -> Path:
        return self.path / "train"

    @property
    def events(self) -> Path:
        return self.stage_events("train")

    def stage_events(self, stage: str) -> Path:
        """The event log of a stage."""
        return {"prepare": self.data, "train": self.train, "evaluate": self.evaluation}[stage] / "events.jsonl"

    def request(self, name: str) -> Path:
        """Asks a training that goes on for a `stop` or a `checkpoint`, from wherever the folder can be written."""
        return self.train / "requests" / name

    def training_samples(self, step: int) -> Path:
        """What the model made at a validation, in the form of `samples`."""
        return self.train / "samples" / f"step-{step:08d}.json"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation"

    @property
    def metrics(self) -> Path:
        return self.evaluation / "metrics.json"

    @property
    def samples(self) -> Path:
        return self.evaluation / "samples.json"

    @property
    def figures(self) -> Path:
        return self.evaluation / "figures.json"

    @property
    def units(self) -> Path:
        return self.evaluation / "units.safetensors"

    @property
    def cost(self) -> Path:
        return self.evaluation / "cost.json"

    @property
    def folds(self) -> Path:
        """Where a cross-validation keeps what is of one fold or one repeat."""
        return self.path / "folds"

    def fold(self, name: str) -> "RunFolder":
        """The run of a fold (`REPEAT-FOLD`), or the data of a repeat (`REPEAT`)."""
        return RunFolder(self.folds / name)

    @property
    def shelf(self) -> Path:
        """The folder that holds this run and others beside it; a fold stands where its cross-validation does."""
        inside = self.path.parent.name == "folds" and (self.path.parent.parent / "run.yaml").is_file()
        return (self.path.parent.parent if inside else self.path).parent

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    def code(self, digest: str) -> Path:
        """The record of the code that a stage ran, by its digest."""
        return self.path / "code" / f"{digest[:16]}.json"

    @property
    def data_code(self) -> Path:
        """Which code made the data."""
        return self.path / "code" / "data.json"

    @property
    def first_weights(self) -> Path:
        """Of a run that starts from the weights of another: of which."""
        return self.train / "init.json"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def job_mark(self, key: str) -> Path:
        """Says how a job of the cluster has ended that is not to be made again unasked."""
        return self.logs / f"job-{key}.json"

    def job_starts(self, key: str) -> Path:
        """How many starts a job of the cluster has spent, while it goes on."""
        return self.logs / f"job-{key}-starts.json"

    def open(self, run: "RunConfig") -> None:
        """Make the folder this run's, or check that it is.

        A folder of another run is refused with the keys that differ; where the run computes, who watches and how it is
        evaluated may change.
        """
        from configs.load import differences, dump, read  # here, for names of files are wanted fast
        from configs.schema import identity

        if self.config.exists():
            if other := list(differences(identity(run), identity(read(self.config)))):
                raise ConfigError(
                    f"{self.path} holds another run; these keys differ (this configuration, that folder):\n"
                    + "\n".join(f"  - {line}" for line in other)
                    + "\nchoose another --name, or remove the folder to start over"
                )
        elif self.path.exists() and any(p.name != "logs" for p in self.path.iterdir()):
            raise ConfigError(f"{self.path} is not empty and holds no run.yaml; choose another --name or --runs")
        self.logs.mkdir(parents=True, exist_ok=True)
        if not self.config.exists() or read(self.config) != run:
            write_atomic(self.config, dump(run))


def require_output(option: str, path: Path | None) -> None:
    """Raises UserError where no file of that name could be written: asked before the work that it is to hold."""
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        raise UserError(f"{option} {path}: name a file in a folder that is there")


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write beside the target, flush to the disk, then rename: a reader sees the old file or the new one."""
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
    sync(path.parent)


def write_json(path: Path, value: Any) -> None:
    """`write_atomic` of indented JSON; NaN is refused."""
    write_atomic(path, _as_text(value))


def _as_text(value: Any) -> str:
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def is_as_written(path: Path) -> bool:
    """Whether a file is what `write_json` makes of its content, byte for byte: digests of content overlook spaces."""
    try:
        content = path.read_bytes()
        return content == _as_text(json.loads(content)).encode()
    except (OSError, ValueError):
        return False


def sync(path: Path) -> None:
    """Make a file's bytes, or the renames in a folder, last through a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest(value: Any) -> str:
    """sha256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def digest_holds(record: Mapping[str, Any]) -> bool:
    """Whether a record's `digest` is that of the rest of it."""
    return record.get("digest") == digest({key: value for key, value in record.items() if key != "digest"})


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def locked(folder: Path, *, wait_s: float = 10.0) -> Iterator[None]:
    """Be the only writer of a folder; the lock goes with the process, however it ends.

    Raises UserError when another process keeps the folder for longer than wait_s seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    deadline, waiting = time.monotonic() + wait_s, False
    with (folder / ".lock").open("a+") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    file.seek(0)
                    owner = file.read().strip() or "unknown"
                    raise UserError(f"{folder} is in use by process {owner}; wait for it or stop it") from None
                if not waiting:
                    print(f"waiting for {folder}, which another process uses", file=sys.stderr, flush=True)
                waiting = True
                time.sleep(0.1)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
