"""Command: run a recorded configuration again and compare with the original. Run as `trainworks reproduce RUN`."""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from configs.code import changed_files, changed_packages, code_record
from configs.errors import UserError
from configs.folder import RunFolder
from configs.process import command_main, die_with_parent
from configs.stages import read_complete, read_record, step_folder, steps_in
from pipelines.custody.again import run_command
from pipelines.gate.page import lines
from pipelines.gate.readings import read_reading
from pipelines.gate.verdicts import judge

SHOWN = 5
"""Files and packages that a message names"""


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
    before = read_reading(original)
    others = list(other_code(original))
    if others and not arguments.any_code:
        raise UserError(
            f"{original.path} was made by other code: {'; '.join(others)}; check that release out, or run it with this "
            "code: --any-code"
        )
    for line in others:
        print(f"other code: {line}")
    again = fresh_folder(original, arguments.runs, arguments.name)
    code = run_command("run", original.config, "--runs", again.path.parent, "--name", again.path.name)
    if code:
        return code
    print(f"{again.path} and {original.path} are {compare(again, original)}")
    judgement = judge([read_reading(again)], [before], baseline=before.run)
    for line in lines(judgement):
        print(line)
    return judgement.code


def other_code(folder: RunFolder) -> Iterator[str]:
    """How the code and packages that made a run differ from what is here; nothing when they do not."""
    checkpoint = newest(folder)
    told = [read_complete(checkpoint), read_record(folder.metrics)]
    codes = dict.fromkeys([*told[0].get("earlier_code", ()), *(each.get("code") for each in told)])
    present = code_record()
    for code in codes:
        if code is None:
            yield "it is not recorded which"
            continue
        record = read_record(folder.code(code))
        if files := changed_files(record, present):
            yield f"release {record['release']}, here {present['release']}: {_listed(files)} differ"
        if packages := changed_packages(record, present):
            yield f"packages then and now: {_listed(packages)}"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def newest(folder: RunFolder) -> Path:
    """The folder of the last checkpoint. Raises UserError when there is none."""
    for step in steps_in(folder.train)[:1]:
        return step_folder(folder.train, step)
    raise UserError(f"{folder.train} has no checkpoint; run `trainworks train` first")


def fresh_folder(original: RunFolder, runs: Path | None, name: str | None) -> RunFolder:
    """Where the run is done again: beside the original unless told otherwise. Raises UserError when it is taken."""
    home = runs or original.path.resolve().parent
    if name is None:
        stem = f"{original.path.resolve().name}-again"
        name = next(each for n in count(1) if not (home / (each := stem if n == 1 else f"{stem}-{n}")).exists())
    if (home / name).exists():
        raise UserError(f"{home / name} is there already; a reproduction starts afresh: choose another --name")
    return RunFolder(home / name)


def compare(again: RunFolder, original: RunFolder) -> Equality:
    """Tensors of the last checkpoints by kind, by a child process, and the metrics."""
    command = [sys.executable, "-m", "trainer.compare", str(newest(again)), str(newest(original))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"the checkpoints cannot be compared: {done.stderr.strip()}")
    kinds = {kind: each["equal"] for kind, each in json.loads(done.stdout).items()}
    ours, theirs = (read_record(folder.metrics) for folder in (again, original))
    return Equality(kinds | {"metrics": ours["metrics"] == theirs["metrics"]})


if __name__ == "__main__":
    die_with_parent(by=15)
    sys.exit(main())
