"""Rolling windows over documents: what is context, what is scored, and the negative log-likelihood of each window."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from data.packing import Ids
from data.progress import Progress, rate
from trainer.distributed import World, add
from trainer.evaluation.calibration import confidence_sums
from trainer.task import Sample
from trainer.tasks.causal_lm import CausalLM


class Window(tuple[int, int, int, int]):
    """Part of a document, [begin, end) of its ids after the start token, whose last `scored` ids count."""

    __slots__ = ()

    def __new__(cls, *, document: int, begin: int, end: int, scored: int) -> "Window":
        return super().__new__(cls, (document, begin, end, scored))


def rolling_windows(length: int, window: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """(begin, end, scored) over `length` ids: each but the first is scored once, with the longest context there is.

    The last `scored` ids of each window count; windows move by `stride`.
    """
    done = 1
    for begin in range(0, length, stride):
        end = min(begin + window, length)
        if end > done:
            yield begin, end, end - done
        done = end
        if end == length:
            return


def windows_of(documents: Sequence[Ids], *, tokens: int, stride: int) -> list[Window]:
    """The windows of `tokens` inputs over every document, each preceded by a start token, in order."""
    return [
        Window(document=d, begin=begin, end=end, scored=scored)
        for d, document in enumerate(documents)
        for begin, end, scored in rolling_windows(len(document) + 1, tokens + 1, stride)
    ]


@torch.no_grad()
def score_windows(
    task: CausalLM,
    nets: Mapping[str, nn.Module],
    windows: Sequence[Window],
    documents: Sequence[Ids],
    *,
    end: int,
    batch_windows: int,
    world: World,
) -> tuple[NDArray[np.float64], dict[str, float]]:
    """Each window's negative log-likelihood in nats, [windows], and the sums of the calibration, the same on all ranks.

    Windows of one length that score as many tokens are scored together, so that little is padding, and the network's
    last block has little to do for context; ranks take turns with them.
    """
    lengths = np.array([stop - begin for _, begin, stop, _ in windows], dtype=np.int64)
    mine = np.lexsort((scored_in(windows), -lengths))[world.rank :: world.size]
    progress = Progress("evaluate", len(mine), "windows", visible=world.rank == 0)
    nll = torch.zeros(len(windows), dtype=torch.float64)
    sums = confidence_sums(torch.zeros(0), torch.zeros(0))
    for start in range(0, len(mine), batch_windows):
        chosen = mine[start : start + batch_windows]
        batch = task.collate([_sample(number, windows[number], documents, end) for number in chosen.tolist()])
        of_window, calibration = task.score(nets, batch.to(world.device))
        nll[torch.from_numpy(chosen)] = of_window.cpu()
        sums = add(sums, {name: value.cpu() for name, value in calibration.items()})
        if progress.due():
            progress.show(start, rate(progress.per_s(start), "windows"))
    return world.sum(nll).numpy(), world.sum_all(sums)


def _sample(number: int, window: Window, documents: Sequence[Ids], end: int) -> Sample:
    document, begin, stop, scored = window
    ids = documents[document]
    tokens = ids[begin - 1 : stop - 1] if begin else np.concatenate([[end], ids[: stop - 1]])
    return {"id": number, "position": begin, "tokens": tokens, "scored": scored}


def scored_in(windows: Sequence[Window]) -> NDArray[np.float64]:
    """How many tokens each window scores, [windows]."""
    return np.array([scored for _, _, _, scored in windows], dtype=np.float64)


def known_nll(per_token: Sequence[NDArray[np.float64]], windows: Sequence[Window]) -> NDArray[np.float64]:
    """Each window's negative log-likelihood [windows], where each document's is known by token."""
    return np.array([per_token[d][stop - 1 - scored : stop - 1].sum() for d, _, stop, scored in windows], np.float64)
