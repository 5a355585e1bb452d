"""nanoGPT's model and optimizer, from a checkout, trained as its train.py does, behind a gate.

python -m benchmarks.peers.nanogpt JOB
"""

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.speed.gate import Gate

LOG_EVERY = 10


def main(job: dict[str, Any]) -> None:
    """Train until the gate ends the process."""
    sys.path.insert(0, job["nanogpt"])
    from model import GPT, GPTConfig

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    gate = Gate(device, getattr(torch, job["precision"]))
    torch.backends.cuda.matmul.allow_tf32 = True
    sizes, batch, length = job["model"], job["batch"], job["length"]
    model = GPT(
        GPTConfig(
            block_size=length,
            vocab_size=sizes["vocab_size"],
            n_layer=sizes["num_layers"],
            n_head=sizes["num_heads"],
            n_embd=sizes["hidden_size"],
            dropout=0.0,
            bias=True,
        )
    ).to(device)
    optimizer = model.configure_optimizers(0.1, 1e-4, (0.9, 0.95), device.type)
    model.train()
    run = torch.compile(model) if job["compile"] else model
    tokens = np.memmap(job["tokens"], dtype=np.uint16, mode="r")
    mixed = job["precision"] == "bfloat16"
    context = torch.autocast(device.type, torch.bfloat16) if mixed else nullcontext()

    def batch_of() -> tuple[torch.Tensor, torch.Tensor]:
        starts = torch.randint(len(tokens) - length, (batch,)).tolist()
        rows = torch.from_numpy(np.stack([tokens[at : at + length + 1] for at in starts]).astype(np.int64))
        pair = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
        if device.type == "cuda":
            pair = tuple(one.pin_memory().to(device, non_blocking=True) for one in pair)
        return pair

    inputs, targets = batch_of()
    step = 0
    while True:
        gate.between()
        step += 1
        for group in optimizer.param_groups:
            group["lr"] = 1e-4
        with context:
            _, loss = run(inputs, targets)
        inputs, targets = batch_of()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % LOG_EVERY == 0:
            print(f"{step}: {loss.item():.3f}")
        gate.count(batch * length)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
