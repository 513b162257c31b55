"""RunConfig as DeepSpeed's dictionary."""

import pytest

from tests.tiny import tiny_run
from trainer.engines import deepspeed_config


@pytest.mark.parametrize(("precision", "autocast"), [("fp32", False), ("bf16", True)])
def test_the_dictionary_is_this_one(precision: str, autocast: bool) -> None:
    run = tiny_run(
        train__global_batch_samples=24, world__micro_batch_samples=4, world__processes=2, train__precision=precision
    )
    assert deepspeed_config(run) == {
        "train_batch_size": 24,
        "train_micro_batch_size_per_gpu": 4,
        "gradient_accumulation_steps": 3,
        "gradient_clipping": 0.0,
        "zero_optimization": {"stage": 0},
        "torch_autocast": {"enabled": autocast, "dtype": "bfloat16"},
        "steps_per_print": None,
        "wall_clock_breakdown": False,
    }
