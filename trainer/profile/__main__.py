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
    precision = run.train.precision
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
    kept = [("kept for the backward pass", f"{size(plan.kept_bytes)} by {batch}{again}")]
    lines += _block("activations", kept)
    lines += _block(f"memory per device, {run.world.processes} of them", held(run, plan, batch))
    stages = [(f"stage {stage}", f"about {size(total)}") for stage, total in plan.stages.items()]
    lines += _block(f"in all by world.zero.stage (here {run.world.zero.stage})", stages)
    if plan.candidates:
        sizes = [(f"{micro:,} samples", f"about {size(total)}") for micro, total in plan.candidates.items()]
        lines += _block("in all by micro-batch: training takes the largest that fits its devices", sizes)
    return "\n".join(lines)


def held(run: RunConfig, plan: Plan, batch: str) -> list[Row]:
    """What a device holds, row by row; without rows of what there is none of."""
    memory, optimizer = plan.memory, f"optimizer ({run.train.optimizer.kind})"
    rows = [
        ("weights", memory.weights),
        ("own part of the weights, updated", memory.master),
        ("gradients", memory.gradients),
        (optimizer, memory.optimizer),
        ("averaged weights (ema)", memory.average),
        ("buckets and gathered weights", memory.communication),
    ]
    told = [(name, size(count)) for name, count in rows if count]
    told.append(("activations", f"{size(memory.activations)} at the fullest moment of {batch}"))
    if memory.update > memory.activations:
        told.append(("gradients being reduced, later", size(memory.update)))
    told.append(("in all", f"about {size(memory.total)}"))
    beside = [("beside it, host memory per rank", memory.host), ("beside it, disk per rank", memory.disk)]
    return told + [(name, f"about {size(count)}") for name, count in beside if count]


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
