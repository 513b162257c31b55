"""Text from a language model, one token after the other."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from configs.language import SamplingConfig


@torch.inference_mode()
def generate(
    model: nn.Module,
    prompt: Sequence[int],
    config: SamplingConfig,
    *,
    context_tokens: int,
    end: int,
    generator: torch.Generator,
    called: Callable[[], None] = lambda: None,
) -> list[int]:
    """Ids that follow the prompt, until `end` or config.max_tokens; the model sees the last context_tokens ids.

    `called` hears of each call of the model.
    """
    model.eval()
    ids = list(prompt)
    for _ in range(config.max_tokens):
        called()
        window = torch.tensor([ids[-context_tokens:]], device=generator.device)
        logits = model(window)[0, -1].float()  # [V]
        choice = choose(logits, config, generator)
        if choice == end:
            break
        ids.append(choice)
    return ids[len(prompt) :]


def choose(logits: Tensor, config: SamplingConfig, generator: torch.Generator) -> int:
    """One token id from logits [V] under temperature, top-k and top-p."""
    if config.temperature == 0:
        return int(logits.argmax())
    logits = restrict((logits - logits.max()) / config.temperature, top_k=config.top_k, top_p=config.top_p)
    return int(torch.multinomial(logits.softmax(-1), 1, generator=generator))


def restrict(logits: Tensor, *, top_k: int | None, top_p: float) -> Tensor:
    """logits [V] with -inf outside the k likeliest tokens and outside the smallest set of probability p or more.

    Nucleus sampling: Holtzman et al., 2020. The likeliest token always stays.
    """
    if top_k is not None and top_k < len(logits):
        logits = logits.masked_fill(logits < logits.topk(top_k).values[-1], -torch.inf)
    if top_p < 1:
        ordered, places = logits.softmax(-1).sort(descending=True)
        before = ordered.cumsum(-1) - ordered
        logits = logits.clone()
        logits[places[before >= top_p]] = -torch.inf
    return logits
