"""Text from a causal language model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from configs.folder import write_atomic
from configs.language import CausalLMConfig, SamplingConfig
from trainer.evaluation.generate import generate
from trainer.sampling.options import overridden
from trainer.trained import Trained

_PROMPT = ""  # a document from its beginning


def sample(
    trained: Trained,
    *,
    prompts: Sequence[str] | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    number: int = 1,
    seed: int | None = None,
    output: Path | None = None,
) -> None:
    """Continue each prompt `number` times, on the screen or into a file; settings not given are the run's.

    Without a prompt anywhere, documents are written from their beginning. Raises ConfigError for settings that cannot
    be.
    """
    assert isinstance(trained.run.task, CausalLMConfig)
    given: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p}
    kept = trained.run.task.evaluation.sampling or SamplingConfig(prompts=(_PROMPT,))
    settings = kept.model_dump(mode="json") | {name: value for name, value in given.items() if value is not None}
    settings["prompts"] = list(prompts or kept.prompts)
    task = overridden(trained.run, ("evaluation", "sampling"), settings).task
    assert isinstance(task, CausalLMConfig)
    assert task.evaluation.sampling
    texts = write(trained, task.evaluation.sampling, number, trained.run.seed if seed is None else seed)
    separator = "\n" + "─" * 20 + "\n"
    if output is None:
        print(separator.join(texts))
    else:
        write_atomic(output, separator.join(texts) + "\n")
        print(output)


def write(trained: Trained, settings: SamplingConfig, number: int, seed: int) -> list[str]:
    """Each prompt with what follows it, `number` times; each text depends on its own prompt, number and seed alone."""
    tokenizer = Tokenizer.from_file(str(trained.folder.tokenizer))
    end = trained.manifest.text.end_of_document_id
    texts = []
    for place, prompt in enumerate(settings.prompts):
        ids = tokenizer.encode(prompt, add_special_tokens=False).ids
        for again in range(number):
            following = generate(
                trained.nets["model"],
                [end, *ids],
                settings,
                context_tokens=trained.manifest.block_tokens,
                end=end,
                generator=torch.Generator(trained.device).manual_seed(stream(seed, place, again)),
            )
            texts.append(prompt + tokenizer.decode(following))
    return texts


def stream(seed: int, prompt: int, number: int) -> int:
    """The seed of one text, another for each."""
    return int(np.random.SeedSequence((seed, prompt, number)).generate_state(1, np.uint32)[0])
