"""Ranks that score networks together.

`python -m torch.distributed.run ... tests/evaluation_worker.py KITCHEN BATCH`, where KITCHEN/recipes.json says what was
cooked there: names, paths and changes. Rank 0 leaves KITCHEN/results.json.
"""

import json
import sys
from pathlib import Path

import torch.distributed as dist

from tests.contract.cases import Kitchen, Recipe
from tests.contract.evaluations import evaluated_on, run_of, stirred
from trainer.distributed import World


def main(root: Path, batch: int) -> None:
    kitchen, results, world = Kitchen(root), {}, None
    for name, path, changes in json.loads((root / "recipes.json").read_text(encoding="utf-8")):
        case = kitchen.cook(Recipe(name, Path(path), tuple(changes)))
        run = run_of(case, batch)
        world = world or World.join(run.world, whole=True)
        result = evaluated_on(world, case, stirred(case.networks()), run)
        results[name] = result.record() | {"units": {unit: len(each.ids) for unit, each in result.units.items()}}
        if world.rank:
            assert not result.figures, "figures are rank 0's"
    if world and world.rank == 0:
        (root / "results.json").write_text(json.dumps(results), encoding="utf-8")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
