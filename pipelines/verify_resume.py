"""Command: kill a training at random, resume it on the same and on other numbers of ranks, and compare every step.

Run as `trainworks verify-resume CONFIG.yaml [OVERLAY.yaml ...] [key.path=value ...]`.
"""

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.events import read_events
from configs.folder import RunFolder, write_json
from configs.lines import LASTING, Line
from configs.process import command_main, die_with_parent
from pipelines.resume.judge import Event, compare_curves, judge_tensors, steps_of
from pipelines.resume.plan import Plan, build_plan
from pipelines.resume.rows import Row, header, line, reference_line
from pipelines.resume.trial import Trial, TrialError, distances, train_with_kills, train_without_a_kill
from pipelines.stages import run_stage

NAME = "verify-resume"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line. Exits with 2 when it is wrong."""
    parser = argparse.ArgumentParser(
        prog=f"trainworks {NAME}",
        description="Train a few steps without a disturbance; train them again, kill the whole job at random steps, "
        "resume it on the same and on other numbers of ranks, and compare samples, learning rates, losses and the last "
        "checkpoint.",
        epilog="Exit codes: 0 when all are equal, 1 when one differs or fails, 2 for a mistake in what was asked.",
    )
    parser.add_argument(
        "config", nargs="+", metavar="CONFIG", help="CONFIG.yaml [OVERLAY.yaml ...] [key.path=value ...]"
    )
    parser.add_argument(
        "--worlds",
        type=partial(_numbers, least=1),
        metavar="N,...",
        help="numbers of ranks to resume on (the run's own; 1, 2, 4 if they fit)",
    )
    parser.add_argument(
        "--stages",
        type=partial(_numbers, least=0),
        metavar="N,...",
        help="ZeRO stages, such as 0,1,2,3 (the run's own)",
    )
    parser.add_argument("--steps", type=_count, default=12, metavar="N", help="steps that are compared (12)")
    parser.add_argument("--kills", type=_count, default=1, metavar="N", help="kills of each training (1)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the moments of the kills (0)")
    parser.add_argument(
        "--tolerance", type=float, default=1e-4, metavar="X", help="relative difference allowed on other worlds (1e-4)"
    )
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="DIR", help="where a run that init_from names is (runs)"
    )
    parser.add_argument("--work", type=Path, metavar="DIR", help="where to work; it must be empty or not exist")
    parser.add_argument("--keep", action="store_true", help="leave everything that was trained in --work")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the outcome there too")
    options, more = parser.parse_known_args(arguments)
    if wrong := [word for word in more if word.startswith("-")]:
        parser.error(f"unrecognized arguments: {' '.join(wrong)}")
    options.config += more  # overrides may stand after the options too
    return options


def _numbers(text: str, *, least: int) -> tuple[int, ...]:
    numbers = text.split(",")
    if not all(each.isdecimal() and int(each) >= least for each in numbers):
        raise argparse.ArgumentTypeError(
            f"{text!r}: give whole numbers from {least} on with commas between, such as 1,2"
        )
    return tuple(map(int, numbers))


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 1 or more")
    return int(text)


def verify_resume(plan: Plan, work: Path, say: Callable[[str], None], *, keep: bool) -> Iterator[Row]:
    """Carry the plan out in a folder; a row for each stage and world as soon as it is known.

    What was trained goes when it has been compared, unless it is to be kept. Raises UserError, and TrialError when the
    data cannot be prepared.
    """
    prepared = RunFolder(work / "prepared")
    first = plan.runs[plan.stages[0], plan.reference_world]
    prepared.open(first)
    outcome = run_stage("prepare", first, prepared, lambda told: _relay(told, say))
    if outcome.code:
        if outcome.code == UserError.exit_code:
            raise UserError(outcome.reason)
        raise TrialError(outcome.reason, outcome.code)
    for note in plan.notes:
        say(f"note: {note}")
    say(header())
    for stage in plan.stages:
        begun = time.monotonic()
        try:
            reference = train_without_a_kill(plan, stage, prepared.data, work / f"stage-{stage}-reference")
        except TrialError as error:
            yield Row(stage, plan.reference_world, True, time.monotonic() - begun, problems=(f"not killed: {error}",))
            continue
        say(reference_line(stage, plan.reference_world, time.monotonic() - begun))
        for world in plan.worlds:
            path = work / f"stage-{stage}-on-{world}"
            yield _judged(plan, stage, world, reference, path, prepared.data)
            if not keep:
                shutil.rmtree(path, ignore_errors=True)
        if not keep:
            shutil.rmtree(reference.path, ignore_errors=True)


def _relay(told: Line, say: Callable[[str], None]) -> None:
    if told.mark == LASTING:
        say(f"{told.stage}: {told.text}")


def _judged(plan: Plan, stage: int, world: int, reference: RunFolder, path: Path, data: Path) -> Row:
    """Train with kills, and compare."""
    begun, exact = time.monotonic(), world == plan.reference_world
    try:
        trial = train_with_kills(plan, stage, world, data, path)
        told = distances(trial.folder, reference, plan.runs[stage, world], plan.steps)
    except TrialError as error:
        return Row(stage, world, exact, time.monotonic() - begun, problems=(str(error),))
    return judge(plan, stage, world, trial, list(read_events(reference.events)), told, time.monotonic() - begun)


def judge(
    plan: Plan,
    stage: int,
    world: int,
    trial: Trial,
    reference: Sequence[Event],
    told: dict[str, dict[str, Any]],
    seconds: float,
) -> Row:
    """The row of a trial, by its log, the reference's events and what `trainer.compare` told of their checkpoints."""
    exact = world == plan.reference_world
    curves = compare_curves(
        steps_of(reference, plan.steps),
        read_events(trial.folder.events),
        world=plan.reference_world,
        last=plan.steps,
        tolerance=plan.tolerance,
    )
    return Row(
        stage=stage,
        ranks=world,
        exact=exact,
        seconds=seconds,
        killed_at=trial.killed_at,
        resumed_from=trial.resumed_from,
        repeated=trial.repeated,
        samples=curves.digest,
        rate=curves.rate,
        loss=curves.loss,
        tensors={kind: each["difference"] for kind, each in told.items()},
        problems=(*curves.problems, *judge_tensors(told, exact=exact, tolerance=plan.tolerance)),
    )


@contextmanager
def work_folder(wanted: Path | None, *, keep: bool) -> Iterator[Path]:
    """An empty folder to work in, gone afterwards unless it is to be kept. Raises UserError."""
    if wanted is None:
        path = Path(tempfile.mkdtemp(prefix=f"trainworks-{NAME}-"))
    elif wanted.exists() and (not wanted.is_dir() or any(wanted.iterdir())):
        raise UserError(f"--work {wanted} is not an empty folder; name a new one")
    else:
        path = wanted
        path.mkdir(parents=True, exist_ok=True)
    try:
        yield path
    finally:
        if not keep:
            shutil.rmtree(path, ignore_errors=True)


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    return command_main(NAME, lambda: _work(options))


def _work(options: argparse.Namespace) -> int:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))  # so that the folder goes
    plan = build_plan(
        options.config,
        runs=options.runs,
        stages=options.stages,
        worlds=options.worlds,
        steps=options.steps,
        kills=options.kills,
        seed=options.seed,
        tolerance=options.tolerance,
    )
    rows = []
    with work_folder(options.work, keep=options.keep) as work:
        try:
            for row in verify_resume(plan, work, _print, keep=options.keep):
                rows.append(row)
                _print(line(row))
                for problem in row.problems:
                    _print(f"    {problem}")
        except TrialError as error:
            print(f"trainworks {NAME}: {error}", file=sys.stderr)
            return error.code
        if options.keep:
            _print(f"kept: {work.resolve()}")
    equal = all(row.equal for row in rows)
    if options.json:
        write_json(options.json, outcome(plan, rows))
    _print(summary(plan, rows))
    return 0 if equal else 1


def outcome(plan: Plan, rows: Sequence[Row]) -> dict[str, Any]:
    """What was tried and found, for a program to read."""
    kept = ("reference_world", "steps", "every_steps", "kills", "seed", "tolerance")
    return {name: getattr(plan, name) for name in kept} | {
        "equal": all(row.equal for row in rows),
        "rows": [row.record() for row in rows],
    }


def summary(plan: Plan, rows: Sequence[Row]) -> str:
    """The last line."""
    wrong = [row for row in rows if not row.equal]
    if not wrong:
        exact = sum(row.exact for row in rows)
        return (
            f"{len(rows)} of {len(rows)} resumed trainings are the uninterrupted one: {exact} to the last bit, "
            f"{len(rows) - exact} within {plan.tolerance:g}"
        )
    first = wrong[0]
    return (
        f"{len(wrong)} of {len(rows)} resumed trainings are not the uninterrupted one; "
        f"first, stage {first.stage} on {first.ranks} ranks: {first.problems[0]}"
    )


def _print(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    die_with_parent(by=signal.SIGTERM)  # which leaves time to clear up
    sys.exit(main(sys.argv[1:]))
