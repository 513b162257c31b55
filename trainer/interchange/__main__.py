"""Command: `python -m trainer.interchange RUN DIR [--raw]`, a trained run as a folder that `transformers` loads."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from configs.errors import ConfigError, UserError
from configs.folder import RunFolder
from configs.load import read
from configs.process import command_main
from configs.stages import chosen_step, step_folder, verify_checkpoint
from data.manifest import read_manifest
from trainer.checkpoint import load_network
from trainer.interchange.export import write_layout
from trainer.models.heads import TokenHead
from trainer.models.transformer import Transformer
from trainer.tasks import build_task

NETWORK = "model"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="trainworks export",
        description="Write a trained transformer in Hugging Face's layout: config.json, model.safetensors, tokenizer. "
        "Decoders become GPT-2, Llama or StableLM, encoders BERT, whichever has the same arithmetic.",
        epilog="Exit code: 0 when written, 2 when the run has no such layout or DIR exists, 1 when a file is damaged.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder with a checkpoint, such as runs/demo")
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder to write; it must not exist")
    parser.add_argument(
        "--raw", action="store_true", help="the weights of the last step, where the run averages them (train.ema)"
    )
    return parser.parse_args(arguments)


def export(path: Path, target: Path, *, raw: bool) -> str:
    """Write a run's result, or its newest checkpoint while it trains; returns what was written, in words.

    Raises UserError where there is nothing to export or no layout for it, DamageError where a file is damaged.
    """
    folder = RunFolder(path)
    if not folder.config.is_file():
        raise UserError(f"{path} holds no run.yaml; give a run folder, such as runs/NAME")
    if target.exists():
        raise UserError(f"{target} exists; name a new folder")
    if not target.absolute().parent.is_dir():
        raise UserError(f"{target}: there is no folder {target.absolute().parent} to put it into")
    run = read(folder.config)
    manifest = read_manifest(folder.manifest)
    step = chosen_step(folder.train)
    if step is None:
        raise UserError(f"{path} has no checkpoint; run `trainworks train` first")
    network = build_task(run, manifest).networks().get(NETWORK)
    if not isinstance(network, Transformer) or manifest.tokenizer is None:
        raise ConfigError(f"task.kind={run.task.kind} has no layout of Hugging Face's; transformers of text have one")
    checkpoint = step_folder(folder.train, step)
    verify_checkpoint(checkpoint)
    averaged = run.train.ema is not None and not raw
    load_network(checkpoint, NETWORK, network, averaged=averaged)
    architecture = write_layout(
        network,
        target,
        tokenizer=folder.tokenizer,
        record=manifest.tokenizer,
        classes=manifest.tags if isinstance(network.head, TokenHead) else manifest.classes,
    )
    weights = "averaged weights" if averaged else "weights"
    prompt = getattr(run.task, "prompt", "")
    note = f"; it was trained with {prompt!r} before each text, which is yours to put there" if prompt else ""
    return f"{target}: {architecture} with the {weights} of step {step}{note}"


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    return command_main("export", lambda: _report(export(options.run, options.folder, raw=options.raw)))


def _report(written: str) -> int:
    print(written)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
