"""Command: run a recorded configuration again and compare with the original. Run as `trainworks reproduce RUN`."""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from configs.code import code_record
from configs.errors import UserError
from configs.folder import RunFolder
from configs.folds import cross_validates, fold_names, repeat_folder, repeats_of
from configs.load import read
from configs.origin import find_origin
from configs.process import command_main, die_with_parent
from configs.schema import RunConfig
from configs.stages import asked_runs, chosen_step, read_complete, read_record, step_folder
from pipelines.custody.again import run_command
from pipelines.custody.code import DATA_ROOMS, other_code
from pipelines.gate.page import lines
from pipelines.gate.readings import read_reading
from pipelines.gate.verdicts import judge


@dataclass(frozen=True)
class Equality:
    """Whether two runs are one to the last bit, by kind: weights, optimizer, metrics."""

    kinds: dict[str, bool]

    def __str__(self) -> str:
        equal = [kind for kind, same in self.kinds.items() if same]
        unequal = [kind for kind, same in self.kinds.items() if not same]
        parts = [f"equal to the last bit: {', '.join(equal)}"] if equal else []
        return "; ".join([*parts, *([f"not equal: {', '.join(unequal)}"] if unequal else [])])


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="trainworks reproduce",
        description="Run a run's recorded configuration again in a fresh folder, and gate the result against it.",
        epilog="exit codes: 0 the same or better, 1 worse or the run failed, 2 not comparable or a mistake in what was "
        "asked, 130/137/143 stopped by a signal",
    )
    top.add_argument("run", type=Path, metavar="RUN", help="an evaluated run folder, such as runs/NAME")
    top.add_argument("--runs", type=Path, metavar="DIR", help="where the new run folder goes (beside RUN)")
    top.add_argument("--name", metavar="NAME", help="the new run folder's name (RUN-again)")
    top.add_argument(
        "--any-code", action="store_true", help="run even though this code or these packages are not the recorded ones"
    )
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 the same or better, 1 worse or failed, 2 not comparable or a mistake, 128+n by a signal."""
    arguments = parser().parse_args(argv)
    return command_main("reproduce", lambda: _reproduce(arguments))


def _reproduce(arguments: argparse.Namespace) -> int:
    original = RunFolder(arguments.run)
    before, run = read_reading(original), read(original.config)
    others = differences_of_code(original, run)
    if others and not arguments.any_code:
        raise UserError(
            f"{original.path} was made by other code: {'; '.join(others)}; check that release out, or run it with this "
            "code: --any-code"
        )
    for line in others:
        print(f"other code: {line}")
    again = fresh_folder(original, arguments.runs, arguments.name)
    require_same_runs(run, original, again)
    code = run_command("run", original.config, "--runs", again.path.parent, "--name", again.path.name)
    if code:
        return code
    print(f"{again.path} and {original.path} are {compare(run, again, original)}")
    judgement = judge([read_reading(again)], [before], baseline=before.run)
    for line in lines(judgement):
        print(line)
    return judgement.code


def trainings_of(run: RunConfig, folder: RunFolder) -> list[RunFolder]:
    """The folders that hold a training: each fold of a cross-validation, or the run itself."""
    return [folder.fold(name) for name in fold_names(run)] if cross_validates(run) else [folder]


def differences_of_code(folder: RunFolder, run: RunConfig) -> list[str]:
    """How the code and packages that made a run differ from what is here; empty when they do not."""
    present = code_record()
    prepared = [repeat_folder(run, folder, each) for each in repeats_of(run)] if cross_validates(run) else [folder]
    data = [each.code(read_record(each.data_code)["code"]) for each in prepared if each.data_code.is_file()]
    made = [path for each in trainings_of(run, folder) for path in _codes_of(each)]
    made.append(_code(folder, read_record(folder.metrics)))
    return list(dict.fromkeys([*other_code(data, present, rooms=DATA_ROOMS), *other_code(made, present)]))


def _codes_of(folder: RunFolder) -> list[Path | None]:
    """The records of the code that trained and evaluated; None where a stage has none."""
    complete = read_complete(result_of(folder))
    earlier = [folder.code(each) for each in complete.get("earlier_code", ())]
    return [*earlier, _code(folder, complete), _code(folder, read_record(folder.metrics))]


def _code(folder: RunFolder, record: Mapping[str, Any]) -> Path | None:
    return folder.code(record["code"]) if "code" in record else None


def result_of(folder: RunFolder) -> Path:
    """The folder of the checkpoint that is a training's result. Raises UserError when there is none."""
    step = chosen_step(folder.train)
    if step is None:
        raise UserError(f"{folder.train} has no checkpoint; run `trainworks train` first")
    return step_folder(folder.train, step)


def require_same_runs(run: RunConfig, original: RunFolder, again: RunFolder) -> None:
    """Raises UserError when a run that the original needed is not found from where it is to be done again."""
    before, after = _needed(run, original), _needed(run, again)
    for name, place in before.items():
        if place != after.get(name):
            there = after.get(name) or "not there"
            raise UserError(
                f"{original.path} takes its {name} from {place}; from {again.path} that is {there}: leave --runs out"
            )


def _needed(run: RunConfig, folder: RunFolder) -> dict[str, Path]:
    """Folders of other runs by what they are for. Raises ConfigError when the one of the first weights is missing."""
    found = {name: each.path.resolve() for name, each in asked_runs(run, folder).items()}
    origin = find_origin(run, folder)
    return found | ({"first weights": origin.resolve()} if origin else {})


def fresh_folder(original: RunFolder, runs: Path | None, name: str | None) -> RunFolder:
    """Where the run is done again: beside the original unless told otherwise. Raises UserError when it is taken."""
    home = runs or original.path.resolve().parent
    if name is None:
        stem = f"{original.path.resolve().name}-again"
        name = next(each for n in count(1) if not (home / (each := stem if n == 1 else f"{stem}-{n}")).exists())
    if (home / name).exists():
        raise UserError(f"{home / name} is there already; a reproduction starts afresh: choose another --name")
    return RunFolder(home / name)


def compare(run: RunConfig, again: RunFolder, original: RunFolder) -> Equality:
    """Tensors of the results by kind, those of all folds together, and the metrics."""
    kinds: dict[str, bool] = {}
    for ours, theirs in zip(*(trainings_of(run, folder) for folder in (again, original)), strict=True):
        for kind, same in _compare_tensors(result_of(ours), result_of(theirs)).items():
            kinds[kind] = same and kinds.get(kind, True)
    ours, theirs = (read_record(folder.metrics) for folder in (again, original))
    return Equality(kinds | {"metrics": ours["metrics"] == theirs["metrics"]})


def _compare_tensors(ours: Path, theirs: Path) -> dict[str, bool]:
    """Whether two checkpoints are equal to the last bit, by a child process, which knows tensors."""
    command = [sys.executable, "-m", "trainer.compare", str(ours), str(theirs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"the checkpoints cannot be compared: {done.stderr.strip()}")
    return {kind: each["equal"] for kind, each in json.loads(done.stdout).items()}


if __name__ == "__main__":
    die_with_parent(by=15)
    sys.exit(main())
