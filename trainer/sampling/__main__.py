"""Command: text or images from a trained run. Run as `trainworks sample RUN`."""

import argparse
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.process import command_main, die_with_parent, leave

PLURALS = {"prompts": "prompt", "classes": "class"}
"""Options that may be repeated, by the name under which all of them are passed on"""


def parser() -> argparse.ArgumentParser:
    """The command line; what an option is when not given stands in the run's configuration."""
    top = argparse.ArgumentParser(
        prog="trainworks sample",
        description="Write text or draw images with a trained run.",
        epilog="exit codes: 0 done, 1 a file is damaged, 2 a mistake in what was asked",
    )
    top.add_argument("run", type=Path, metavar="RUN", help="a run folder, such as runs/NAME")
    top.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="where to write (text: the screen; images: RUN/samples.png)"
    )
    top.add_argument("--seed", type=int, metavar="N", help="draws other samples (the run's seed)")
    top.add_argument("--number", type=int, metavar="N", help="texts per prompt (1), images or strips per class (8, 1)")
    text = top.add_argument_group("language models")
    text.add_argument("--prompt", dest="prompts", action="append", metavar="TEXT", help="a beginning; may be repeated")
    text.add_argument("--max-tokens", type=int, metavar="N", help="longest continuation")
    text.add_argument("--temperature", type=float, metavar="X", help="divides the logits; 0 takes the likeliest token")
    text.add_argument("--top-k", type=int, metavar="K", help="keep the K likeliest tokens")
    text.add_argument("--top-p", type=float, metavar="P", help="keep the likeliest tokens of probability P together")
    images = top.add_argument_group("diffusion models")
    images.add_argument(
        "--class", dest="classes", action="append", metavar="NAME", help="a class, or all; may be repeated"
    )
    images.add_argument(
        "--guidance", type=float, metavar="X", help="1 follows the class, more exaggerates it, 0 ignores it"
    )
    images.add_argument("--sampler", metavar="NAME", help="ddpm, ddim, dpm_solver or heun")
    images.add_argument("--steps", type=int, metavar="N", help="levels of noise visited")
    images.add_argument("--columns", type=int, metavar="N", help="images in a row of the picture")
    images.add_argument("--interpolate", type=int, metavar="K", help="strips of K images from one noise to another")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 a file is damaged, 2 a mistake in what was asked."""
    arguments = parser().parse_args(argv)
    return command_main("sample", lambda: _sample(arguments))


def _sample(arguments: argparse.Namespace) -> int:
    options = {name: value for name, value in vars(arguments).items() if name != "run" and value is not None}
    for name in ("number", "columns"):
        if options.get(name, 1) < 1:
            raise UserError(f"--{name} {options[name]}: it must be at least 1")
    if not 0 <= options.get("seed", 0) < 2**32:
        raise UserError(f"--seed {options['seed']}: it must be from 0 to {2**32 - 1}")
    if (output := arguments.output) is not None and (output.is_dir() or not output.absolute().parent.is_dir()):
        raise UserError(f"--output {output}: name a file in a folder that is there")

    from trainer.distributed import choose_device
    from trainer.tasks import FAMILIES, sampling_of
    from trainer.trained import open_trained, read_run

    run = read_run(arguments.run)
    if (function := sampling_of(run)) is None:
        able = " and ".join(kind for kind, family in FAMILIES.items() if family.sampling)
        raise UserError(
            f"{arguments.run}: a run of task.kind={run.task.kind} has nothing to draw; those of {able} have"
        )
    require_fit(options, function, run.task.kind)
    function(open_trained(arguments.run, choose_device(run.world, 0)), **options)
    return 0


def require_fit(options: Mapping[str, Any], function: Callable[..., None], kind: str) -> None:
    """Raises UserError for an option that the family's function does not take."""
    _, *takes = inspect.signature(function).parameters
    for name in options:
        if name not in takes:
            own = " ".join(map(flag, takes))
            raise UserError(f"{flag(name)} is not for runs of task.kind={kind}, whose options are {own}")


def flag(name: str) -> str:
    """How an option is written on the command line."""
    return f"--{PLURALS.get(name, name).replace('_', '-')}"


if __name__ == "__main__":
    die_with_parent()
    leave(main())
