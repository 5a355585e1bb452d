"""How far below a model's output a parameter stands, counted in blocks and told from its name.

It reads our own names (`blocks.3.`) and those of transformers (`layer.3.`, `layers.3.`, `h.3.`, `block.3.`),
whatever prefix they stand under.
"""

import re
from collections.abc import Iterable

BLOCK = re.compile(r"(?:^|\.)(?:layers?|blocks?|h)\.(\d+)\.")
EMBEDDING = re.compile(r"(?:^|\.)(?:wte|wpe|shared|position|project_in|[a-z_]*embed(?!_out)[a-z_]*)\.")


def stacks(names: Iterable[str]) -> dict[str, int]:
    """Return the number of blocks of each stack, by the names' prefix up to the blocks (`bert.encoder`)."""
    heights: dict[str, int] = {}
    for name in names:
        if found := BLOCK.search(name):
            stack = name[: found.start()]
            heights[stack] = max(heights.get(stack, 0), int(found[1]) + 1)
    return heights


def distances(names: Iterable[str]) -> dict[str, int]:
    """Return each name's distance from the top: 0 for what stands above the blocks, 1 for the last block.

    Each stack is counted by itself, an encoder's last block like a decoder's; embeddings, which stacks may
    share, stand below the first block of the tallest.
    """
    names = list(names)
    heights = stacks(names)
    out = {}
    for name in names:
        if found := BLOCK.search(name):
            out[name] = heights[name[: found.start()]] - int(found[1])
        else:
            out[name] = max(heights.values(), default=0) + 1 if EMBEDDING.search(name) else 0
    return out
