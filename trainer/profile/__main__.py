"""Command: what a run will compute and hold, before there is data or a GPU. Run as `trainworks profile CONFIG...`."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from configs.folder import RunFolder
from configs.load import load
from configs.process import command_main, die_with_parent
from configs.schema import RunConfig
from data.card.display import size
from trainer.profile.plan import Plan, make_plan
from trainer.profile.sketch import look

Row = tuple[str, str]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="trainworks profile",
        description="Parameters, GFLOPs, activations in bytes and memory per device in bytes, told from the "
        "configuration; the run's data is looked at where it is prepared.",
        epilog="exit codes: 0 done, 1 the prepared data is damaged, 2 a mistake in what was asked",
    )
    grammar = "CONFIG.yaml [OVERLAY.yaml ...] [key.path=value ...]"
    top.add_argument("config", nargs="+", metavar="CONFIG", help=f"{grammar}; later ones win")
    top.add_argument("--classes", type=int, metavar="N", help="classes of data that is not prepared (1000)")
    top.add_argument("--json", action="store_true", help="print everything as JSON, in bytes and FLOPs")
    top.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where run folders are (runs)")
    top.add_argument("--name", metavar="NAME", help="the run folder's name (the config's `name`)")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 the prepared data is damaged, 2 a mistake in what was asked."""
    top = parser()
    arguments, more = top.parse_known_args(argv)  # overrides may stand after the options too
    if wrong := [word for word in more if word.startswith("-")]:
        top.error(f"unrecognized arguments: {' '.join(wrong)}")
    if arguments.classes is not None and arguments.classes < 1:
        top.error(f"--classes {arguments.classes}: at least one class can be told")
    arguments.config += more
    return command_main("profile", lambda: _profile(arguments))


def _profile(arguments: argparse.Namespace) -> int:
    run = load(arguments.config)
    folder = RunFolder(arguments.runs / (arguments.name or run.name))
    outlook = look(run, folder, classes=arguments.classes)
    plan = make_plan(run, outlook)
    if arguments.json:
        print(json.dumps({"run": run.name, "assumed": outlook.assumed, **plan.record()}, indent=1))
    else:
        print(describe(run, plan, outlook.assumed))
    return 0


def describe(run: RunConfig, plan: Plan, assumed: Sequence[str]) -> str:
    """The plan as aligned text."""
    memory, precision = plan.memory, run.train.precision
    tokens = f" of {plan.tokens_per_step // plan.samples_per_step:,} tokens" if plan.tokens_per_step else ""
    lines = [f"{run.name}: {run.task.kind.replace('_', ' ')}, {precision}", *(f"assumed: {each}" for each in assumed)]
    for name, network in plan.networks.items():
        learning = f"{network.trained:,} learn, {network.frozen:,} are frozen"
        lines += _block(f"network {name!r}", [("parameters", f"{network.parameters:,} ({learning})")])
    compute = [
        ("forward, one sample", giga(plan.forward_flops)),
        ("forward and backward, one sample", giga(plan.training_flops)),
        ("one step", f"{giga(plan.step_flops)} over {plan.samples_per_step:,} samples{tokens}"),
    ]
    if plan.tokens_per_step:
        compute.append(("tokens per step", f"{plan.tokens_per_step:,}"))
    lines += _block("compute (FLOPs = 2 x multiply-adds)", compute)
    batch = f"a micro-batch of {plan.micro_batch_samples:,} samples"
    again = ", blocks computed again in the backward pass" if run.world.recompute else ""
    held = [
        ("weights", size(memory.weights)),
        ("gradients", size(memory.gradients)),
        (f"optimizer ({run.train.optimizer.kind})", size(memory.optimizer)),
        ("averaged weights (ema)", size(memory.average)),
        ("activations", f"{size(memory.activations)} at the fullest moment of {batch}"),
        ("in all", f"about {size(memory.total)}"),
    ]
    kept = [("kept for the backward pass", f"{size(plan.kept_bytes)} by {batch}{again}")]
    lines += _block("activations", kept)
    lines += _block(f"memory per device, {run.world.processes} of them", held)
    return "\n".join(lines)


def _block(title: str, rows: Sequence[Row]) -> list[str]:
    width = max(len(name) for name, _ in rows)
    return ["", title, *(f"  {name.ljust(width)}  {value}" for name, value in rows)]


def giga(flops: int) -> str:
    """GFLOPs to four digits."""
    count = flops / 1e9
    return f"{count:,.0f} GFLOPs" if count >= 1000 else f"{count:.4g} GFLOPs"


if __name__ == "__main__":
    die_with_parent()
    sys.exit(main())
