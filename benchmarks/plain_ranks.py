"""The peer of the recovery case: a plain torch script for torch.distributed.run, as its tutorial on restarts has it.

`plain_ranks.py FOLDER STEPS EVERY`: every step is a line in FOLDER/events.jsonl, every EVERY-th one saved by rank 0.
"""

import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import TextIO

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

VOCABULARY, WIDTH, LAYERS, HEADS, HIDDEN, TOKENS, SAMPLES = 2048, 128, 4, 4, 512, 64, 8
PR_SET_PDEATHSIG = 1


class Decoder(nn.Module):
    """Of the size of loop.yaml's network."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(TOKENS), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.blocks(self.embedding(tokens), mask=self.mask, is_causal=True)
        return hidden @ self.embedding.weight.T


def main(folder: Path, steps: int, every: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group("gloo")
    rank, saved = dist.get_rank(), folder / "state.pt"
    model = DistributedDataParallel(Decoder())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    step = 0
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    with (folder / "events.jsonl").open("a") as log:
        tell(log, rank, "start", step)
        while step < steps:
            ids = torch.randint(VOCABULARY, (SAMPLES, TOKENS + 1), generator=torch.Generator().manual_seed(step))
            loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            tell(log, rank, "step", step)
            if step % every == 0 and rank == 0:
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
                torch.save(state, saved.with_suffix(".part"))
                os.replace(saved.with_suffix(".part"), saved)


def tell(log: TextIO, rank: int, event: str, step: int) -> None:
    if rank == 0:
        print(json.dumps({"event": event, "step": step}), file=log, flush=True)


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a benchmark that is killed leaves nothing behind
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
