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

    Embeddings stand one below the first block: of their own stack, or, shared by several or by none, of the
    tallest. Each stack is counted by itself, an encoder's last block like a decoder's.
    """
    names = list(names)
    heights = stacks(names)
    tallest = max(heights.values(), default=0)
    out = {}
    for name in names:
        found = BLOCK.search(name)
        if found:
            out[name] = heights[name[: found.start()]] - int(found[1])
        elif is_embedding(name):
            own = [height for stack, height in heights.items() if stack and name.startswith(f"{stack}.")]
            out[name] = (own[0] if own else tallest) + 1
        else:
            out[name] = 0
    return out


def is_embedding(name: str) -> bool:
    """Whether the parameter is read before the first block: an embedding, or what is done to one."""
    return BLOCK.search(name) is None and EMBEDDING.search(name) is not None
