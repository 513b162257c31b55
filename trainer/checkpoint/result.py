"""Which checkpoint is the result of a finished training, where that is not simply the last."""

from configs.engine import BestConfig
from configs.errors import DamageError
from configs.folder import RunFolder, digest, write_json
from configs.schema import RunConfig
from configs.stages import FINISHED, decides, result_rule, step_folder, steps_in, verify_checkpoint
from trainer.checkpoint.checkpointer import TrainState
from trainer.checkpoint.retention import best_of, read_metrics


def settle_result(run: RunConfig, folder: RunFolder, state: TrainState) -> None:
    """Write finished.json, the last file of a training that ended at `state`; nothing where the last step decides.

    Raises DamageError when the checkpoint that scored best is gone or not as it was written.
    """
    if not decides(run):
        return
    step = state.step
    why = "the last step" if step == run.train.steps else f"early stop after step {step}"
    if by := run.train.chosen_by:
        step = _best_step(folder, by, state)
        why += f", best by {by.metric} at step {step}"
    record = verify_checkpoint(step_folder(folder.train, step))
    written = {"step": step, "checkpoint": record["digest"], "last_step": state.step, "why": why}
    written |= {"rule": result_rule(run)}
    write_json(folder.train / FINISHED, written | {"digest": digest(written)})


def _best_step(folder: RunFolder, by: BestConfig, state: TrainState) -> int:
    """The step of the best checkpoint, which must be that of the best pass over the validation split."""
    found = {step: read_metrics(step_folder(folder.train, step)) or {} for step in steps_in(folder.train)}
    best = best_of(found, by.model_copy(update={"count": 1}))
    expected = state.stopping.get("best")
    value = found[next(iter(best))][by.metric] if best else None
    if expected is not None and value != expected[1]:
        there = "no checkpoint there has one" if value is None else f"the best there is {value:.6g}"
        raise DamageError(
            f"{step_folder(folder.train, expected[0])}, the best by {by.metric} ({expected[1]:.6g}), is gone or "
            f"damaged, and {there}; remove {folder.train} to train again, or set train.result=last"
        )
    return next(iter(best))
