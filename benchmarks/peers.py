"""The peers of the loop cases, each as its users would write it to be fast."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, TensorDataset

from benchmarks.harness import Round, Stopwatch
from configs.folder import RunFolder
from configs.language import CausalLMConfig, DecoderConfig
from configs.load import read
from configs.optimisation import AdamWConfig
from configs.schema import RunConfig
from data.dataset import order_of
from data.manifest import Manifest, read_manifest
from data.order import Sampler
from data.samples import decode
from data.shards import ShardReader
from tests.peers import gpt2_weights
from trainer.checkpoint import weights
from trainer.distributed import seed_all
from trainer.models.cross_entropy import IGNORE
from trainer.models.heads import LanguageHead
from trainer.models.transformer import Transformer
from trainer.optim import learning_rate


def open_run(path: Path) -> tuple[RunConfig, Manifest, RunFolder]:
    folder = RunFolder(path)
    run = read(folder.config)
    torch.set_num_threads(run.world.threads)
    return run, read_manifest(folder.manifest), folder


def shape_of(run: RunConfig) -> DecoderConfig:
    assert isinstance(run.task, CausalLMConfig)
    return run.task.model


def adamw_of(run: RunConfig) -> AdamWConfig:
    assert isinstance(run.train.optimizer, AdamWConfig)
    return run.train.optimizer


def build_decoder(run: RunConfig, manifest: Manifest) -> Transformer:
    """Our network with the weights that our side starts from."""
    seed_all(run.seed)
    shape, vocabulary = shape_of(run), manifest.text.vocabulary_size
    head = LanguageHead(shape, vocabulary_size=vocabulary)
    return Transformer(shape, vocabulary_size=vocabulary, context_tokens=manifest.block_tokens, head=head)


def read_blocks(run: RunConfig, manifest: Manifest, folder: RunFolder) -> tuple[Tensor, Tensor, list[int]]:
    """The train split in memory, as tokens and targets [samples, T], and the ids in the order our side draws them.

    The last block may be short: its end is filled up with tokens 0 and targets IGNORE, as our task does.
    """
    reader = ShardReader(folder.data, manifest.splits["train"].shards, manifest.fields)
    tokens = np.zeros((len(reader), manifest.block_tokens), np.int64)
    targets = np.full_like(tokens, IGNORE)
    for row, sample in enumerate(reader):
        ids = decode(sample)["tokens"]
        tokens[row, : len(ids) - 1], targets[row, : len(ids) - 1] = ids[:-1], ids[1:]
    batch = run.train.global_batch_samples
    sampler = Sampler(order_of(run, folder, manifest), micro=batch, rank=0, world=1)
    order = [sampler.at(position) for position in range(run.train.steps * batch)]
    return torch.from_numpy(tokens), torch.from_numpy(targets), order


def decay_groups(network: nn.Module, run: RunConfig) -> list[dict[str, Any]]:
    """Matrices and embeddings decay, norms and biases do not."""
    matrices = [p for p in network.parameters() if p.dim() >= 2]
    others = [p for p in network.parameters() if p.dim() < 2]
    decay = run.train.optimizer.weight_decay
    return [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]


class PlainTorch:
    """The short loop that everybody writes: data in memory, fused AdamW, the loss looked at every few steps."""

    def __init__(self, path: Path) -> None:
        self.run, manifest, folder = open_run(path)
        self.network = build_decoder(self.run, manifest)
        self.start = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        tokens, targets, self.order = read_blocks(self.run, manifest, folder)
        self.data = TensorDataset(tokens, targets)

    def round(self) -> Round:
        """Train from the initial weights to the last step."""
        train, network = self.run.train, self.network
        network.load_state_dict(self.start)
        network.zero_grad()
        optimizer = torch.optim.AdamW(
            decay_groups(network, self.run),
            lr=train.optimizer.learning_rate,
            betas=adamw_of(self.run).betas,
            eps=adamw_of(self.run).eps,
            fused=True,
        )
        batches = BatchSampler(self.order, train.global_batch_samples, drop_last=True)
        assert train.clip_grad_norm is not None
        losses: list[Tensor] = []
        watch = Stopwatch()
        watch.start()
        network.train()
        for step, (tokens, targets) in enumerate(DataLoader(self.data, sampler=batches, batch_size=None)):
            logits = network(tokens)
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), train.clip_grad_norm)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, train)
            optimizer.step()
            losses.append(loss.detach())
            if (step + 1) % train.log_every_steps == 0:
                loss.item()
        watch.stop()
        tokens_done = len(self.order) * self.data.tensors[0].shape[1]
        return Round(tokens_done, watch.seconds, watch.cpu_s, {"losses": torch.stack(losses).tolist()})


class Blocks(Dataset[dict[str, Tensor]]):
    """Blocks in the order of training, fetched a batch at a time: the quickest that Trainer's loader knows."""

    def __init__(self, tokens: Tensor, targets: Tensor) -> None:
        self.tokens, self.targets = tokens, targets

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """A batch; `shift_labels` are targets already one place on, so the model need not shift `labels`."""
        targets = self.targets[indices]
        return {"input_ids": self.tokens[indices], "labels": targets, "shift_labels": targets}


class TransformersTrainer:
    """`transformers.Trainer` with GPT2LMHeadModel: fused AdamW, no progress bar, no reports, no saves."""

    def __init__(self, path: Path) -> None:
        self.run, manifest, folder = open_run(path)
        self.path = path
        decoder = build_decoder(self.run, manifest)
        self.start = {name: tensor.clone() for name, tensor in weights(decoder).items()}
        self.network = build_gpt2(self.run, manifest)
        tokens, targets, order = read_blocks(self.run, manifest, folder)
        self.data = Blocks(tokens[order], targets[order])

    def round(self) -> Round:
        """Train from the initial weights to the last step, with a new Trainer."""
        with torch.no_grad():
            for name, tensor in gpt2_weights(self.network).items():  # views
                tensor.copy_(self.start[name])
        trainer, watch = build_trainer(self.run, self.network, self.data, self.path / "transformers")
        trainer.train()
        file = self.path / "peer.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in gpt2_weights(self.network).items()}, file)
        outputs = {"losses": torch.stack(trainer.step_losses).tolist(), "weights": str(file)}
        return Round(self.data.tokens.numel(), watch.seconds, watch.cpu_s, outputs)


def build_gpt2(run: RunConfig, manifest: Manifest) -> Any:
    """transformers' GPT-2 of our network's shape."""
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = shape_of(run)
    config = GPT2Config(
        vocab_size=manifest.text.vocabulary_size,
        n_positions=manifest.block_tokens,
        n_embd=shape.width,
        n_layer=shape.num_layers,
        n_head=shape.num_heads,
        n_inner=shape.hidden_width,
        layer_norm_epsilon=shape.norm_eps,
        resid_pdrop=shape.dropout,
        embd_pdrop=shape.dropout,
        attn_pdrop=shape.dropout,
        use_cache=False,
        bos_token_id=manifest.text.end_of_document_id,
        eos_token_id=manifest.text.end_of_document_id,
    )
    return GPT2LMHeadModel(config)


def build_trainer(
    run: RunConfig, network: Any, data: Blocks, output: Path, *, deepspeed: dict[str, Any] | None = None
) -> tuple[Any, Stopwatch]:
    """A Trainer with our optimizer settings and schedule, and the clock that it carries."""
    from transformers import Trainer, TrainerCallback, TrainingArguments
    from transformers.utils import logging

    logging.set_verbosity_error()
    train = run.train

    watch = Stopwatch()

    class Timing(TrainerCallback):
        """From before the first batch is fetched until the last step is done and logged."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            watch.start()

        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == train.steps and not watch.seconds:  # a summary is logged once more
                watch.stop()

    class SameSchedule(Trainer):
        """Our learning rate for each step, and every step's loss kept; nothing else changes."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.step_losses: list[Tensor] = []

        def create_scheduler(
            self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
        ) -> torch.optim.lr_scheduler.LRScheduler:
            peak, updated = train.optimizer.learning_rate, cast(torch.optim.Optimizer, optimizer or self.optimizer)
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                updated, lambda step: learning_rate(step, train) / peak
            )
            return self.lr_scheduler

        def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
            self.step_losses.append(super().training_step(*args, **kwargs))
            return self.step_losses[-1]

    arguments = TrainingArguments(
        output_dir=str(output),
        max_steps=train.steps,
        per_device_train_batch_size=run.micro_batch,
        gradient_accumulation_steps=run.accumulation,
        deepspeed=deepspeed,
        train_sampling_strategy="sequential",
        optim="adamw_torch_fused",
        learning_rate=train.optimizer.learning_rate,
        weight_decay=train.optimizer.weight_decay,
        adam_beta1=adamw_of(run).betas[0],
        adam_beta2=adamw_of(run).betas[1],
        adam_epsilon=adamw_of(run).eps,
        max_grad_norm=train.clip_grad_norm or 0.0,
        logging_steps=train.log_every_steps,
        logging_strategy="steps",
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        seed=run.seed,
    )
    trainer = SameSchedule(
        model=network, args=arguments, train_dataset=data, data_collator=lambda batch: batch, callbacks=[Timing()]
    )
    return trainer, watch
