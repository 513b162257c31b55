"""Checkpoints that are whole or absent: copied and written beside the training, completed last by one rank."""

import contextlib
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import torch

from configs.engine import CheckpointConfig
from configs.errors import ConfigError, DamageError, PeerError, StaleError
from configs.load import differences
from configs.stages import check_files, read_complete, step_folder
from data.progress import say
from trainer.checkpoint.retention import Retention
from trainer.checkpoint.snapshot import Snapshot
from trainer.checkpoint.staging import clear, commit, stage, tell_lost
from trainer.checkpoint.stored import StoredNetwork
from trainer.distributed import World
from trainer.pieces import Piece, Stateful

Result = TypeVar("Result")


@dataclass(frozen=True)
class TrainState:
    """Where the run stands, beside the tensors."""

    step: int
    """Updates done"""
    position: int
    """Samples drawn by the whole world"""
    samples_digest: str
    """Rolling digest of all sample ids drawn so far"""
    guard: dict[str, Any] = field(default_factory=dict)
    """What the watch over anomalies remembers, as JSON"""
    stopping: dict[str, Any] = field(default_factory=dict)
    """What the watch over validation remembers, as JSON"""


class Checkpointer:
    """Folders `step-00000100` under `root`; every rank writes what it holds, and reads what it needs.

    `origin` (digests of data and config) and `identity` (what decides the weights, by key) are stored with each, and a
    checkpoint of another origin is refused. `facts` are told in the record. All ranks call each method.
    """

    def __init__(
        self,
        root: Path,
        world: World,
        origin: Mapping[str, str],
        *,
        identity: Mapping[str, Any],
        config: CheckpointConfig,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.root, self.world, self.origin, self.identity = root, world, dict(origin), dict(identity)
        self.config, self.facts = config, dict(facts or {})
        self._aside = world.aside()
        self._retention = Retention(root, config)
        self._snapshots: dict[tuple[str, str], Snapshot] = {}
        self._writer: threading.Thread | None = None
        self._copying: Copying | None = None
        self._completed: deque[TrainState] = deque()
        self._error: Exception | None = None
        self._known: tuple[int, dict[str, str]] | None = None  # step and weights' digests of the last saved or loaded

    @property
    def failed(self) -> bool:
        """Whether a save in the background has failed on some rank; `wait` raises why."""
        return self._error is not None

    def save(
        self,
        engines: Mapping[str, Stateful],
        state: TrainState,
        metrics: Mapping[str, float],
        *,
        changed: bool = True,
    ) -> None:
        """Copy the state and write it in the background, after the save before it has ended.

        Most of the copy is taken while the next forward and backward pass goes on (Mohan et al., 2021): call `settle`
        before the next update. What is not still until then is copied here.

        The checkpoint appears under its name only when every byte of every rank is on the disk. `changed` says that
        some update since the last checkpoint was applied; then weights that are all the same are refused.
        Raises here or from the next `wait`, on every rank and with the earlier checkpoints kept: OSError, StaleError,
        FloatingPointError for a NaN or an infinity, and PeerError where another rank says why.
        """
        self.wait()
        pieces = {
            (network, kind): parts
            for network, engine in engines.items()
            for kind, parts in engine.state().items()
            if parts
        }
        self._make_room(pieces)
        for key, parts in pieces.items():
            self._snapshots[key].take(parts, still=False)
        self._copying = Copying()
        arguments = (pieces, self._copying, state, dict(metrics), changed)
        self._writer = threading.Thread(target=self._write, args=arguments, name="checkpoint", daemon=True)
        self._writer.start()
        if not self.config.asynchronous:
            self.wait()

    def completed(self) -> list[TrainState]:
        """Of the checkpoints that have become whole since the last call."""
        return [self._completed.popleft() for _ in range(len(self._completed))]

    def settle(self) -> None:
        """Wait until the state has been copied and may change; free of charge when no save is under way."""
        if self._copying is not None:
            self._copying.settle()
            self._copying = None

    def wait(self) -> None:
        """Until no save is under way. Raises what went wrong with the last."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def latest(self) -> int | None:
        """The newest step whose every file is as it was written; the ranks share the reading, and all get the answer.

        Damaged ones are skipped aloud.
        """
        self.wait()
        steps: Sequence[int] = self._lead(lambda: clear(self.root))
        found = next((step for step in steps if self._is_sound(step)), None)
        self._lead(lambda: tell_lost(self.root, found))
        return found

    def load(self, step: int, engines: Mapping[str, Stateful]) -> TrainState:
        """Fill the engines from a checkpoint that `latest` named; any world may have written it.

        Raises ConfigError with the keys that differ when it is another run's, DamageError when parts are missing.
        """
        self.wait()
        folder = step_folder(self.root, step)
        record = self._lead(lambda: read_complete(folder))
        self._require_same_run(folder, record)
        for network, engine in engines.items():
            engine.load(StoredNetwork(folder, network, list(record["files"])))
        self._known = step, weights_among(record["files"])
        self.facts |= earlier_code(record, self.facts.get("code"))
        return TrainState(**{each.name: record[each.name] for each in fields(TrainState) if each.name in record})

    def _require_same_run(self, folder: Path, record: Mapping[str, Any]) -> None:
        way_out = "choose another --name, or remove the train folder to start over"
        if keys := list(differences(self.identity, record["identity"])):
            raise ConfigError(
                f"{folder} belongs to another configuration; these keys differ (this run, that checkpoint):\n"
                + "\n".join(f"  - {line}" for line in keys)
                + f"\n{way_out}"
            )
        for key, value in self.origin.items():
            if record[key] != value:
                both = f"{record[key][:12]}..., this run has {value[:12]}..."
                raise ConfigError(f"{folder} belongs to another {key} ({both}); {way_out}")

    def _is_sound(self, step: int) -> bool:
        """Whether a checkpoint is as it was written; each rank reads its share of the files."""
        folder = step_folder(self.root, step)

        def read() -> tuple[dict[str, str], str | None]:
            try:
                return read_complete(folder)["files"], None
            except DamageError as error:
                return {}, str(error)

        def check() -> str | None:
            try:
                check_files(folder, {name: files[name] for name in sorted(files)[self.world.rank :: self.world.size]})
            except DamageError as error:
                return str(error)
            return None

        files, problem = self._lead(read)
        problem = problem or next(filter(None, self._together(check)), None)
        if problem and self.world.rank == 0:
            say("train", f"skipping a damaged checkpoint: {problem}")
        return problem is None

    def _make_room(self, pieces: Mapping[tuple[str, str], Sequence[Piece]]) -> None:
        """Memory that stays from save to save, and is made anew only when the state has another layout."""
        for key in self._snapshots.keys() - pieces.keys():
            del self._snapshots[key]
        for key, parts in pieces.items():
            if key not in self._snapshots or not self._snapshots[key].fits(parts):
                self._snapshots.pop(key, None)  # its memory is free before the next is made
                self._snapshots[key] = Snapshot(parts)

    def _write(
        self,
        pieces: Mapping[tuple[str, str], Sequence[Piece]],
        copying: "Copying",
        state: TrainState,
        metrics: Mapping[str, float],
        changed: bool,
    ) -> None:
        """The background thread."""
        try:
            with copying.taken():
                for key, parts in pieces.items():
                    self._snapshots[key].take(parts, still=True)
            copying.arrive()
            self._transact(state, metrics, changed)
        except Exception as error:
            self._error = error

    def _transact(self, state: TrainState, metrics: Mapping[str, float], changed: bool) -> None:
        """Stage, write, vote, commit."""
        part = step_folder(self.root, state.step).with_suffix(".part")
        try:
            self._lead(lambda: stage(part))
            shares = self._together(lambda: self._write_files(part, state.step))
            files = {name: value for share in shares for name, value in share.items()}
            saved = state.step, weights_among(files)
            if changed and self._known is not None:
                require_changed(saved, self._known)
            record = asdict(state) | {"files": files, "world": self.world.size, "metrics": dict(metrics)}
            record |= {**self.facts, **self.origin, "identity": self.identity}
            self._lead(lambda: self._commit(part, record))
        except Exception:
            if self.world.rank == 0:  # all have voted, so nobody writes any more
                shutil.rmtree(part, ignore_errors=True)
            raise
        self._known = saved
        self._completed.append(state)

    def _write_files(self, part: Path, step: int) -> dict[str, str]:
        """This rank's files, with the sha256 of each."""
        for (network, kind), snapshot in self._snapshots.items():
            if name := snapshot.not_finite():
                raise FloatingPointError(
                    f"step {step} is not saved: {kind} {name} of {network} holds a NaN or an infinity; the last "
                    "checkpoint is from before: try a lower train.optimizer.learning_rate or more warm-up"
                )
        paths = {key: part / file_name(*key, self.world.rank) for key in self._snapshots}
        return {path.name: self._snapshots[key].write(path) for key, path in paths.items()}

    def _commit(self, part: Path, record: Mapping[str, Any]) -> None:
        commit(self.root, part, record)
        self._retention.apply(record["step"])

    def _lead(self, work: Callable[[], Result]) -> Result:
        """What rank 0 finds or does; all ranks get its result."""
        return self._together(work if self.world.rank == 0 else lambda: None)[0]  # type: ignore[return-value]

    def _together(self, work: Callable[[], Result]) -> list[Result]:
        """What every rank finds or does. Where it fails on one, that rank raises why, and the others PeerError."""
        result, error = None, None
        try:
            result = work()
        except Exception as caught:
            error = caught
        votes = self._aside.exchange((result, None if error is None else f"{type(error).__name__}: {error}"))
        if error is not None:
            raise error
        for rank, (_, problem) in enumerate(votes):
            if problem is not None:
                raise PeerError(f"rank {rank} could not do its part of a checkpoint: {problem}")
        return [each for each, _ in votes]


class Copying:
    """A copy of the state that one thread takes while another computes; on a GPU both in streams of their own."""

    def __init__(self) -> None:
        self._done = threading.Event()
        self._stream = torch.cuda.Stream() if torch.cuda.is_available() else None
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream())  # the update that made the state

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """The block that copies."""
        try:
            with torch.cuda.stream(self._stream):  # None: nothing
                yield
        finally:
            self._done.set()

    def arrive(self) -> None:
        """Until the copy can be read."""
        if self._stream is not None:
            self._stream.synchronize()

    def settle(self) -> None:
        """What follows may write over the state: on a GPU it waits there, and the host goes on."""
        self._done.wait()
        if self._stream is not None:
            torch.cuda.current_stream().wait_stream(self._stream)


def earlier_code(record: Mapping[str, Any], code: str | None) -> dict[str, list[str]]:
    """Of a training that goes on from a checkpoint: the other code by which the steps before were taken, if any."""
    before = dict.fromkeys([*record.get("earlier_code", ()), record.get("code")])
    others = [each for each in before if each not in (None, code)]
    return {"earlier_code": others} if others else {}


def file_name(network: str, kind: str, rank: int) -> str:
    return f"{network}.{kind}.rank-{rank:05d}.safetensors"


def weights_among(files: Mapping[str, str]) -> dict[str, str]:
    """The digests of the files that hold weights."""
    return {name: value for name, value in files.items() if name.split(".")[-3] == "weights"}


def require_changed(saved: tuple[int, Mapping[str, str]], known: tuple[int, Mapping[str, str]]) -> None:
    """Raises StaleError when training has moved on, but every weight is the same as at another step."""
    if saved[0] != known[0] and saved[1] == known[1]:
        raise StaleError(
            f"step {saved[0]} is not saved: every weight is the same as at step {known[0]}, though updates were "
            "applied since; the copy is stale, or nothing learns: look at train.optimizer.learning_rate"
        )
