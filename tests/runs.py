"""Small real runs for the integration tests: a generated corpus, a tiny model, the program as a child process."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import yaml

from configs.events import read_events

WORDS = "the king of night and the queen of day met where rivers bend and spoke no word but song".split()  # noqa: SIM905


def write_corpus(folder: Path, *, documents: int = 24, sentences: int = 40) -> Path:
    """Text files that a tiny model can learn something from, the same every time."""
    rng = random.Random(7)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(documents):
        lines = [" ".join(rng.choices(WORDS, k=9)).capitalize() + "." for _ in range(sentences)]
        (folder / f"{number:03d}.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


def tiny_config(folder: Path, corpus: Path, **train: Any) -> Path:
    """A complete configuration whose stages take seconds."""
    config = {
        "name": "tiny",
        "data": {
            "kind": "text",
            "source": {"kind": "files", "paths": [str(corpus)]},
            "tokenizer": {"kind": "bpe", "vocabulary_size": 300},
            "block_tokens": 16,
            "splits": {"validation": 0.2, "test": 0.2},
            "shard_samples": 256,
            "shuffle_window_samples": 300,
        },
        "task": {
            "kind": "causal_lm",
            "model": {"kind": "decoder", "num_layers": 1, "width": 32, "num_heads": 2, "dropout": 0.1},
            "evaluation": {"stride_tokens": 8, "sampling": {"prompts": ["the king"], "max_tokens": 8}},
        },
        "train": {
            "steps": 40,
            "global_batch_samples": 16,
            "optimizer": {"kind": "adamw", "learning_rate": 3e-3},
            "schedule": {"kind": "cosine", "warmup_steps": 4},
            "ema": {"decay": 0.9},
            "validate_every_steps": 20,
            "validation_samples": 32,
            "log_every_steps": 2,
            "checkpoint": {"every_steps": 8, "keep": 3},
        }
        | train,
        "world": {"processes": 2, "micro_batch_samples": 4},
        "wandb": {"mode": "disabled"},
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


def trainworks(*arguments: object) -> list[str]:
    """The command line of the program."""
    return [sys.executable, "-m", "pipelines.cli", *map(str, arguments)]


def run(*arguments: object, timeout_s: float = 180) -> subprocess.CompletedProcess[str]:
    """The program's outcome."""
    return subprocess.run(trainworks(*arguments), capture_output=True, text=True, timeout=timeout_s, check=False)


def run_on_ranks(ranks: int, worker: str, *arguments: object, timeout_s: float = 300) -> None:
    """A script of the tests on several ranks, which torchrun starts."""
    home = Path(__file__).parent
    launch = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}", "--rdzv-backend=c10d"]
    done = subprocess.run(
        [*launch, "--rdzv-endpoint=127.0.0.1:0", str(home / worker), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        cwd=home.parent,
        env=os.environ | {"PYTHONPATH": str(home.parent)},
    )
    assert done.returncode == 0, done.stderr[-3000:]


def interrupt(
    command: Sequence[str],
    when: Callable[[], bool],
    how: Callable[[subprocess.Popen[str]], None],
    timeout_s: float = 120,
) -> subprocess.CompletedProcess[str]:
    """Start a command in its own group, act on it as soon as `when` holds, and wait for its end."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + timeout_s
    while not when():
        assert process.poll() is None, f"ended too early: {process.communicate()}"
        assert time.monotonic() < deadline, "the moment to interrupt did not come"
        time.sleep(0.02)
    how(process)
    out, err = process.communicate(timeout=timeout_s)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def kill_group(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGKILL)


def terminate(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)


def kill_rank(folder: Path, rank: int, how: int = signal.SIGKILL) -> None:
    """Signal one rank of the stage that runs in a folder."""
    named = [each for each in psutil.process_iter(["name", "cmdline"]) if each.info["name"] == f"rank-{rank}"]
    next(each for each in named if str(folder) in (each.info["cmdline"] or [])).send_signal(how)


def wait_until(fact: Callable[[], bool], timeout_s: float = 20) -> bool:
    """Whether a fact comes true in time."""
    deadline = time.monotonic() + timeout_s
    while not fact():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def processes_of(folder: Path) -> list[str]:
    """Command lines of live processes that name a run folder."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = " ".join(process.info["cmdline"] or [])
        if str(folder) in line and process.info["status"] != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
            found.append(line)
    return found


def steps_of(folder: Path) -> dict[int, dict[str, Any]]:
    """Each step's event, the last one where a restart repeated it."""
    events = folder / "train" / "events.jsonl"
    return {e["step"]: e for e in read_events(events) if e["event"] == "step"} if events.exists() else {}


def losses_of(folder: Path) -> dict[int, float]:
    return {step: event["train/loss"] for step, event in steps_of(folder).items()}
