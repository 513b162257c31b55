"""Command: `trainworks smoke` prepares packaged data, trains ten steps and evaluates, to see that it all works.

Needs no network, no configuration and no writable folder but that of temporary files, where nothing is left of it.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import configs
from pipelines import cli

PURPOSE = "Prepare packaged data, train ten steps and evaluate, to see that an installation works."
CONFIGS = Path(configs.__file__).parent
SMALL = (
    *("world.processes=1", "train.steps=10", "train.validate_every_steps=5", "train.checkpoint.every_steps=10"),
    *("data.tokenizer.vocabulary_size=512", "data.splits.test=0.02", "task.model.num_layers=2"),
    *("task.evaluation.stride_tokens=64", "task.evaluation.sampling.max_tokens=20"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of the run, as `trainworks run` has it."""
    argparse.ArgumentParser(prog="trainworks smoke", description=PURPOSE).parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="trainworks-smoke-") as runs:
        files = [str(CONFIGS / "demo-lm.yaml"), str(CONFIGS / "clusters" / "smoke.yaml")]
        return cli.main(["run", *files, *SMALL, "--runs", runs])


if __name__ == "__main__":
    sys.exit(main())
