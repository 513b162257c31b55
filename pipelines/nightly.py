"""Command: a suite of small runs with several seeds, each family gated. Run as `trainworks nightly SUITE.yaml`."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from xml.etree import ElementTree

from configs.code import code_record
from configs.errors import DamageError, UserError
from configs.folder import RunFolder, digest, write_atomic, write_json
from configs.process import command_main, die_with_parent
from configs.suite import SuiteConfig, SuiteRun
from configs.suite_file import arguments_of, load_run, read_suite
from pipelines.baselines import HOME as BASELINES
from pipelines.baselines import holding, load_baseline, store
from pipelines.custody.again import run_command
from pipelines.gate.against import gate
from pipelines.gate.junit import suite_of, written
from pipelines.gate.page import lines, said, verdict_table
from pipelines.gate.readings import Kind, Reading, read_reading
from pipelines.gate.verdicts import MINIMUM, Judgement
from pipelines.page import Table, render
from pipelines.tracking.verdicts import leave_baseline, leave_verdict

STOPPED = 128
"""Exit codes from here on are those of signals: the suite stops with the run"""


@dataclass(frozen=True)
class Family:
    """What came of one family of the suite."""

    name: str
    failed: dict[int, int]
    """Exit code of each run that failed, by seed"""
    judgement: Judgement | None = None
    stored: bool = False
    """Whether its runs have become a baseline"""
    note: str = ""
    """What was stored, or why there is no judgement"""

    @property
    def code(self) -> int:
        """Exit code: 1 when a run failed or is worse, 2 when nothing can be said, 0 else."""
        if self.failed:
            return 1
        return self.judgement.code if self.judgement else 0 if self.stored else 2

    @property
    def word(self) -> str:
        if self.failed:
            return "failed"
        return self.judgement.word if self.judgement else "stored" if self.stored else "not comparable"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="trainworks nightly",
        description="Do every run of a suite that is not done by this code yet, gate each family, and write one page "
        "(nightly.html), JUnit XML (nightly.xml) and JSON (nightly.json) beside the runs.",
        epilog="exit codes: 0 nothing is worse, 1 something is or a run failed, 2 something cannot be compared or a "
        "mistake in what was asked, 130/137/143 stopped by a signal",
    )
    top.add_argument("suite", type=Path, metavar="SUITE", help="such as configs/nightly.yaml")
    top.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where DIR/SUITE/CODE goes (runs)")
    top.add_argument("--baselines", type=Path, default=BASELINES, metavar="DIR", help=f"where they are ({BASELINES})")
    top.add_argument("--set-baseline", action="store_true", help="store each family as its next baseline, do not gate")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 nothing worse, 1 worse or failed, 2 not comparable or a mistake, 128+n stopped by a signal."""
    arguments = parser().parse_args(argv)
    return command_main("nightly", lambda: _nightly(arguments))


def _nightly(arguments: argparse.Namespace) -> int:
    suite = read_suite(arguments.suite)
    home = home_of(suite, arguments.suite, arguments.runs)
    done = do_suite(suite, arguments.suite, home, arguments.baselines, stores=arguments.set_baseline)
    return done if isinstance(done, int) else code_of(done)


def do_suite(suite: SuiteConfig, path: Path, home: Path, baselines: Path, *, stores: bool) -> list[Family] | int:
    """Every run of a suite, gated or stored, with the pages about it; the exit code of a run that a signal ended."""
    seeds = suite.baseline_seeds if stores else suite.seeds
    failed: dict[str, dict[int, int]] = {each.name: {} for each in suite.runs}
    # Seed by seed, not family by family: a family's speeds then vary as the machine does over the whole night.
    for seed, run in product(seeds, suite.runs):
        name = folder_name(run, seed)
        print(f"--- {name}", flush=True)
        words = arguments_of(path, run, seed)
        code = run_command("run", *words, "--runs", home, "--name", name)
        if code > STOPPED:
            return code
        if code:
            failed[run.name][seed] = code
    families = [
        settle(
            suite,
            run,
            [RunFolder(home / folder_name(run, seed)) for seed in seeds if seed not in failed[run.name]],
            failed=failed[run.name],
            baselines=baselines,
            stores=stores,
        )
        for run in suite.runs
    ]
    write_verdicts(suite, seeds, families, home)
    for family in families:
        for line in told(family):
            print(line)
    print(home / "nightly.html")
    return families


def code_of(families: Sequence[Family]) -> int:
    """Exit code of a suite, the gravest of its families'."""
    return max((family.code for family in families), key=(0, 2, 1).index)


def home_of(suite: SuiteConfig, path: Path, runs: Path) -> Path:
    """Where the suite's runs by this code, as they are configured, go: what others left says nothing of these."""
    record, (seed, *_) = code_record(), suite.seeds
    configured = [load_run(path, each, seed).model_dump(mode="json") for each in suite.runs]
    return runs / suite.name / digest([record["files"], record["packages"], record["python"], configured])[:12]


def folder_name(run: SuiteRun, seed: int) -> str:
    return f"{run.name}-seed-{seed}"


def settle(
    suite: SuiteConfig,
    run: SuiteRun,
    done: Sequence[RunFolder],
    *,
    failed: dict[int, int],
    baselines: Path,
    stores: bool,
) -> Family:
    """Gate a family's finished runs, or keep them as its baseline when none has failed."""
    name = f"{suite.gate.baseline}-{run.name}"
    try:
        readings = [read_reading(folder) for folder in done]
        if stores:
            return _stored(run, name, done, readings, baselines, failed)
        if not readings:
            return Family(run.name, failed, note="no run of it is finished")
        minimum: dict[Kind, float] = {**MINIMUM, **suite.gate.minimum}
        baseline = load_baseline(name, baselines)
        judgement = gate(readings, baseline, baselines, alpha=suite.gate.alpha, minimum=minimum)
        leave_verdict(done, judgement.record())
        return Family(run.name, failed, judgement)
    except (UserError, DamageError) as error:
        return Family(run.name, failed, note=str(error))


def _stored(
    run: SuiteRun,
    name: str,
    done: Sequence[RunFolder],
    readings: Sequence[Reading],
    baselines: Path,
    failed: dict[int, int],
) -> Family:
    if failed:
        return Family(run.name, failed, note="it is not stored: a baseline is of all seeds")
    if there := holding(name, readings, baselines):  # a suite that was stopped after it had stored this family
        return Family(run.name, failed, note=f"is stored as {there}", stored=True)
    stored = store(name, readings, baselines)
    leave_baseline(done, str(stored))
    return Family(run.name, failed, note=f"stored as {stored}", stored=True)


def told(family: Family) -> list[str]:
    """A family's lines for a terminal, its verdict last."""
    found = [f"{family.name}: seed {seed} failed with code {code}" for seed, code in family.failed.items()]
    if family.judgement:
        found += [f"{family.name}: {line}" for line in lines(family.judgement)]
    return [*found, f"{family.name}: {family.word}" + (f": {family.note}" if family.note else "")]


def write_verdicts(suite: SuiteConfig, seeds: Sequence[int], families: Sequence[Family], home: Path) -> None:
    """The page, JUnit XML and JSON of the whole suite."""
    record = {
        "suite": suite.name,
        "families": [
            {
                "name": family.name,
                "verdict": family.word,
                "failed": {str(seed): code for seed, code in family.failed.items()},
                "note": family.note,
                "gate": family.judgement.record() if family.judgement else None,
            }
            for family in families
        ],
    }
    write_json(home / "nightly.json", record)
    write_atomic(home / "nightly.xml", junit(suite, seeds, families))
    write_atomic(home / "nightly.html", build_page(suite, families))


def junit(suite: SuiteConfig, seeds: Sequence[int], families: Sequence[Family]) -> str:
    """A test suite of the runs, one test case each, and one for each family's gate."""
    root = ElementTree.Element("testsuites", name=suite.name)
    failures = sum(len(family.failed) for family in families)
    missing = [family for family in families if not (family.judgement or family.stored or family.failed)]
    tests = len(families) * len(seeds)
    runs = ElementTree.SubElement(
        root, "testsuite", name="runs", tests=str(tests), failures=str(failures), errors=str(len(missing))
    )
    for family in families:
        for seed in seeds:
            case = ElementTree.SubElement(runs, "testcase", classname=f"run.{family.name}", name=f"seed {seed}")
            if seed in family.failed:
                ElementTree.SubElement(case, "failure", message=f"ended with code {family.failed[seed]}")
            elif family in missing and seed == seeds[0]:
                ElementTree.SubElement(case, "error", message=family.note)
    root.extend(suite_of(family.judgement) for family in families if family.judgement)
    return written(root)


def build_page(suite: SuiteConfig, families: Sequence[Family]) -> str:
    """The whole page: a line for each family, then its metrics."""
    rows = [
        (family.name, [family.word, ", ".join(map(str, family.failed)) or "none", _counted(family), family.note or "–"])
        for family in families
    ]
    strong = frozenset((row, 0) for row, family in enumerate(families) if family.code == 1)
    head = [("", ""), ("verdict", ""), ("failed seeds", ""), ("worse", "metrics"), ("note", "")]
    gated = [(family, verdict_table(family.judgement)) for family in families if family.judgement]
    return render(
        "nightly",
        name=suite.name,
        worse=[family.name for family in families if family.code == 1],
        summary=Table("Each family with all its seeds.", head, rows, strong),
        families=[(family.name, family.judgement, table) for family, table in gated],
        sections=[("families", "Families"), *((family.name, family.name.capitalize()) for family, _ in gated)],
        charts=[],
    )


def _counted(family: Family) -> str:
    verdicts = family.judgement.verdicts if family.judgement else ()
    return ", ".join(each.name for each in verdicts if said(each) == "worse") or "none"


if __name__ == "__main__":
    die_with_parent(by=15)
    sys.exit(main())
