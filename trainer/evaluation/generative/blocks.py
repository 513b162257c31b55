"""How images are shared out over ranks where a number must not hang on how many ranks there are."""

from trainer.distributed import World

TOGETHER = 32
"""Images in one call of a network. Its last digits hang on how many there are, and a drawn pixel may then be rounded to
the next level, so that images are shared out in whole blocks: any ranks compute the same ones"""


def block_size(most: int) -> int:
    """Images in a block; `most` is what memory allows."""
    return min(TOGETHER, most)


def blocks_of(count: int, world: World, *, most: int) -> list[range]:
    """This rank's blocks of consecutive places below `count`, every world.size-th; `most` is what memory allows."""
    size = block_size(most)
    starts = range(world.rank * size, count, world.size * size)
    return [range(start, min(start + size, count)) for start in starts]
