"""Command: a run to a cluster. Run as `trainworks submit CONFIG.yaml CLUSTER.yaml`."""

import argparse
import sys
from collections.abc import Sequence

from configs.errors import UserError
from configs.load import load
from configs.process import command_main
from configs.schema import RunConfig
from k8s.checks import preflight
from k8s.checks.names import image
from pipelines.cluster.follow import follow
from pipelines.cluster.kfp import is_over, state_of
from pipelines.cluster.package import pipeline_of, run_body
from pipelines.cluster.place import Place, grammar, name_of, open_place, words, words_of
from pipelines.cluster.plan import plan


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = grammar(
        "submit",
        "Start a run's pipeline on a cluster. All that stands in its way is told before anything is created.",
        by_run=False,
    )
    top.add_argument("--dry-run", action="store_true", help="print what would be created; needs no cluster")
    top.add_argument("--follow", action="store_true", help="print what the run prints, and end as it ends")
    top.add_argument("--again", action="store_true", help="start it although one of the same name runs")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 submitted, or done with --follow; 1 it failed, 2 nothing was created, 128+n stopped by a signal."""
    arguments = words_of(parser(), argv)
    return command_main("submit", lambda: _submit(arguments))


def _submit(arguments: argparse.Namespace) -> int:
    if arguments.dry_run:
        return _print_plan(load(arguments.config), arguments.name)
    place = open_place(arguments)
    pipeline = pipeline_of(place.run)
    require_ready(place)
    if not arguments.again:
        require_alone(place)
    identity = start(place, pipeline)
    if arguments.follow:
        return follow(place, identity, words=words(arguments))
    print(f"follow it: trainworks status {words(arguments)} --follow; end it: trainworks cancel {words(arguments)}")
    return 0


def _print_plan(run: RunConfig, name: str | None) -> int:
    name = name_of(run, name)
    pipeline_of(run)
    for document in plan(run, name):
        print(document, end="")
    refuse([f"{each.name}: {each.says}; {each.remedy}" for each in image_findings(run)])
    return 0


def image_findings(run: RunConfig) -> list:
    """What stands against the image, which is known without a cluster."""
    return [each for each in image(run, None) if each.state == "failed"]  # type: ignore[arg-type]  it asks nothing


def require_ready(place: Place) -> None:
    """Raises UserError with all that stands in the run's way on its cluster."""
    refuse([*preflight(place.run, place.api), *_namespace_problems(place)])


def refuse(problems: Sequence[str]) -> None:
    """Raises UserError where there are problems."""
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise UserError(
            f"nothing was created; there {'is' if len(problems) == 1 else 'are'} {count}:\n" + _list(problems)
        )


def _list(problems: Sequence[str]) -> str:
    return "\n".join(f"  - {each}" for each in problems)


def _namespace_problems(place: Place) -> list[str]:
    """Steps run where KFP puts them, and jobs have to be beside them: they share pods' claims and owners."""
    cluster = place.run.cluster
    home = cluster.pipelines.namespace
    if cluster.namespace == home or place.kfp.multi_user():
        return []
    return [
        f"namespace: cluster.namespace={cluster.namespace}, but Kubeflow Pipelines runs every step in {home}, where it "
        f"is installed for a single user; set cluster.namespace={home}"
    ]


def require_alone(place: Place) -> None:
    """Raises UserError while a pipeline run of the same name goes on: both would write to one folder."""
    going = [each for each in place.kfp.runs(place.name) if not is_over(each)]
    if going:
        found = going[0]
        raise UserError(
            f"nothing was created: {place.name} is submitted already, as pipeline run {found['run_id']} "
            f"({state_of(found).lower()} since {found.get('created_at', 'a while')}); end it with `trainworks cancel "
            f"--run {found['run_id']}`, choose another --name, or say --again"
        )


def start(place: Place, pipeline: dict) -> str:
    """Create the pipeline run; returns its identity."""
    created = place.kfp.create_run(run_body(place.run, place.name, pipeline))
    where = f"experiment {place.kfp.experiment}, namespace {place.api.namespace}"
    print(f"submitted {place.name}: pipeline run {created['run_id']} in {where}", flush=True)
    return created["run_id"]


if __name__ == "__main__":
    sys.exit(main())
