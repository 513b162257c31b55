"""Cases of the engine: loops on two ranks, and those of saving, recovery and goodput in rooms of their own."""

from functools import partial

from benchmarks import engine_goodput, engine_recovery, engine_stall
from benchmarks.harness import Case, Limit
from benchmarks.loop import losses_differ, sides, trainings_differ

LOOPS = (
    *(
        Case(
            name=f"engine/raw-deepspeed{suffix}",
            measures=f"our loop against one by hand over deepspeed.initialize, ZeRO-{stage}, two ranks",
            unit="tokens/s",
            goal=0.97,
            libraries=("torch", "deepspeed"),
            open=partial(
                sides, "benchmarks.engine_peers:RawDeepSpeed", "loop.yaml", "engine.yaml", f"world.zero.stage={stage}"
            ),
            check=partial(losses_differ, absolute=1e-5),
        )
        for suffix, stage in (("", 0), ("-zero1", 1))
    ),
    Case(
        name="engine/transformers-trainer-zero1",
        measures="our loop and network against transformers.Trainer under DeepSpeed, ZeRO-1, two ranks",
        unit="tokens/s",
        goal=1.3,
        libraries=("torch", "deepspeed", "transformers", "accelerate"),
        open=partial(sides, "benchmarks.engine_peers:TransformersZero1", "loop.yaml", "gpt2.yaml", "engine.yaml"),
        check=partial(trainings_differ, loss=1e-4, update=1e-2),
    ),
)
CASES: tuple[Case | Limit, ...] = (*LOOPS, *engine_stall.CASES, *engine_recovery.CASES, *engine_goodput.CASES)
