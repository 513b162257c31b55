"""Command: a pipeline run that has ended, gone on with. Run as `trainworks resume CONFIG.yaml CLUSTER.yaml`."""

import argparse
import sys
from collections.abc import Sequence

from configs.errors import UserError
from configs.process import command_main
from k8s.api import Object
from pipelines.cluster.follow import follow
from pipelines.cluster.kfp import is_over, state_of
from pipelines.cluster.package import pipeline_of
from pipelines.cluster.place import Place, grammar, open_place, words, words_of
from pipelines.cluster.submit import require_alone, require_ready, start


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = grammar(
        "resume",
        "Go on with a run that failed or was cancelled. On a volume of its own claim a new pipeline run begins in the "
        "same folder; without one the pipeline run itself is tried again, whose volume KFP keeps until it succeeds.",
    )
    top.add_argument("--follow", action="store_true", help="print what the run prints, and end as it ends")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 it goes on, or done with --follow; 1 it failed, 2 there is nothing to go on with."""
    arguments = words_of(parser(), argv)
    return command_main("resume", lambda: _resume(arguments))


def _resume(arguments: argparse.Namespace) -> int:
    place = open_place(arguments)
    run = place.find(arguments.run)
    identity = go_on(place, run)
    return follow(place, identity, words=words(arguments)) if arguments.follow else 0


def go_on(place: Place, run: Object) -> str:
    """Start again what ended early; returns the identity of the pipeline run that goes on."""
    identity, state, name = run["run_id"], state_of(run), run["display_name"]
    if name != place.name:
        raise UserError(f"pipeline run {identity} is one of {name}, not of {place.name}; say --name {name}")
    if not is_over(run):
        raise UserError(f"pipeline run {identity} is {state.lower()}: there is nothing to resume")
    if state == "SUCCEEDED":
        raise UserError(f"pipeline run {identity} has succeeded: there is nothing to resume")
    require_ready(place)
    require_alone(place)
    if place.run.cluster.workspace.claim is not None:
        return start(place, pipeline_of(place.run))
    place.kfp.change_run(identity, "retry")
    print(f"{place.name}: pipeline run {identity} is tried again, from the step that ended it", flush=True)
    return identity


if __name__ == "__main__":
    sys.exit(main())
