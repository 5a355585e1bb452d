"""The Engine protocol: what moves a model through forward, backward and optimizer step on some layout."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from pydantic import PositiveInt
from torch import nn

from lumbre import products
from lumbre.config import Choice
from lumbre.distributed import Place, World, device, world
from lumbre.engine import cuda
from lumbre.errors import ConfigError, LayoutError, Problem
from lumbre.models.attention import KernelName
from lumbre.models.deferred import Deferred
from lumbre.models.recompute import Recompute
from lumbre.models.share import Share
from lumbre.optim import OptimizerConfig
from lumbre.products import ProductsName

Precision = Literal["float32", "bfloat16", "float64"]


@dataclass(frozen=True)
class Fragment:
    """The part of one parameter that this rank owns in a checkpoint.

    `tensors` maps "param" and each optimizer state's name to a flat tensor: elements
    [start, start + numel) of the flattened parameter, or of the flattened share of it.
    """

    name: str
    shape: tuple[int, ...]
    start: int
    tensors: dict[str, torch.Tensor]
    share: Share | None = None
    """The rows or columns in which elements are counted, where ranks share these out; None is all."""

    @property
    def numel(self) -> int:
        """How many elements of the parameter the fragment covers."""
        return next(iter(self.tensors.values())).numel()


Read = Callable[[str, str, int, int], torch.Tensor]
"""read(kind, name, start, stop): a flat tensor out of a checkpoint; kind is "param" or a state's name."""


def read_share(read: Read, kind: str, name: str, share: Share | None, start: int, stop: int) -> torch.Tensor:
    """Return elements [start, stop) of the share of a tensor, of which no more than encloses them is read."""
    if share is None or start == stop:
        return read(kind, name, start, stop)
    places = share.places(start, stop)
    first = int(places[0])
    return read(kind, name, first, int(places[-1]) + 1)[places - first]


class Engine(Protocol):
    """A model, its optimizer and its layout. Gradients are sums over micro batches and ranks.

    One training step is: `backward(loss, last=...)` for each micro batch, then `step(learning_rate)`.
    """

    module: nn.Module
    """The model as its owner built it: for evaluation and for export in stages 0 to 2."""
    device: torch.device

    def forward(self) -> nn.Module:
        """Return the callable that runs the model with this layout's hooks."""
        ...

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which forward passes run."""
        ...

    def accumulate(self, last: bool) -> AbstractContextManager[Any]:
        """Return the context of one micro batch; ranks reduce gradients only in the last."""
        ...

    def backward(self, loss: torch.Tensor) -> None:
        """Add this micro batch's gradient."""
        ...

    def step(self, learning_rate: float) -> float:
        """Clip by the global norm, update, clear the gradient; return the norm before clipping.

        Where the norm is not finite nothing is updated, neither weights nor optimizer state nor its step
        counters, on any rank; the gradient is cleared all the same.
        """
        ...

    def fragments(self) -> Iterator[Fragment]:
        """Yield what this rank owns of trained parameters and optimizer state, in float32 (or float64).

        A fragment's tensors hold until the next is asked for: what lies on a disk is read part by part.
        What is frozen is no part of a checkpoint: it stays as it was when the engine was built.
        """
        ...

    def restore(self, read: Read, step: int) -> None:
        """Set trained parameters, optimizer state and step counters from a checkpoint of any layout."""
        ...

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield each trained parameter whole, by every name of it, in float32 (or float64).

        All ranks call, and take all: one parameter at a time is gathered.
        """
        ...

    def state_dict(self) -> dict[str, torch.Tensor] | None:
        """Return the trained weights in float32, and buffers, on the main rank, None elsewhere.

        All ranks call. What is frozen is left out: a model built as the engine's was has it, unrounded.
        """
        ...


class EngineConfig(Choice):
    """What runs the training step."""

    precision: Precision = "float32"
    """Arithmetic of the forward and backward pass; master weights stay float32 (float64 with float64)."""

    activation_checkpointing: Recompute = "none"
    """Time for memory: none; selective, all but products is computed again; or every so many blocks are."""
    compile: bool | Literal["trunk"] = False
    """What torch.compile turns into generated kernels: true, each block by itself, so that all that are alike
    are compiled once; trunk, all blocks of a stack as one, which is faster by a percent or two at most and
    takes longer to compile with every layer. A model of transformers is compiled whole."""
    cuda_graphs: bool = False
    """Whether on CUDA a compiled block is recorded, and started as one (compile: true). It is for small
    models, whose kernels end before the next are started. Shapes that vary from batch to batch, as the
    lengths of packed documents do in FlashAttention, run without."""
    float8: Literal["none", "tensorwise", "rowwise"] = "none"
    """What the blocks' linear maps multiply in 8 bits on CUDA (torchao; Ada, Hopper and newer; bfloat16):
    tensorwise has one scale a tensor, so that a token's outlier rounds all others more coarsely, those of
    other documents too; rowwise one a token. For wide models, with compile: true; MFU stays bfloat16's."""
    liger: bool = False
    """Whether on CUDA Liger's kernels (liger-kernel) compute RMSNorm, LayerNorm with a bias, and SwiGLU."""
    attention_kernel: KernelName = "auto"
    """What computes attention; auto takes the fastest that the device and the batch allow."""
    float32_products: ProductsName = "auto"
    """What multiplies float32 matrices on a CPU: auto is oneDNN on AMD's with AVX-512, which MKL leaves
    unused, and MKL elsewhere."""
    keep_freed_memory: bool = True
    """Whether on a CPU the process keeps what a step frees for the next one (glibc); else large blocks go
    back to the system, which maps them page by page anew in each step."""
    sequence_parallel: PositiveInt = 1
    """Neighbouring ranks that share each row, a part of its tokens each (DeepSpeed-Ulysses). What a rank
    keeps of a row for the backward pass falls as much. It divides the model's heads and the row's tokens."""
    tensor_parallel: PositiveInt = 1
    """Neighbouring ranks that share each block's matrices, a part of the heads and of the MLP's width each
    (Megatron; engine.type=deepspeed, zero_stage 0 to 2). They read the same rows. Embeddings, norms and the
    head are whole on each. It divides heads, key/value heads and the intermediate size."""

    @property
    def sharing(self) -> Mapping[str, int]:
        """The keys by which several ranks work on the same samples, and how many each says."""
        keys = {"sequence_parallel": self.sequence_parallel, "tensor_parallel": self.tensor_parallel}
        return {key: ranks for key, ranks in keys.items() if ranks > 1}

    @property
    def group(self) -> Place:
        """Which of the groups of ranks that take samples of their own this process is in."""
        place = world().group(math.prod(self.sharing.values()))
        return Place(place.index, max(1, place.count))

    def problems(self) -> Iterator[Problem]:
        """Report choices that exclude each other, and processes that do not fall into groups."""
        for key, ranks in self.sharing.items():
            yield from _ungrouped(key, ranks)
        together = math.prod(self.sharing.values())
        if world().size % together and not any(world().size % ranks for ranks in self.sharing.values()):
            fault = f"{world().size} processes are no multiple of {' x '.join(self.sharing)} = {together}"
            yield Problem("tensor_parallel", fault, f"use 1, or start {together} processes")
        if rounding := products.fault(self.float32_products):
            yield Problem("float32_products", f"{self.float32_products} {rounding}", "use auto")
        if self.compile and self.activation_checkpointing == "selective":
            fault = "with compile: true the compiler itself chooses what it keeps and what it computes again"
            yield Problem("activation_checkpointing", fault, "use none, or 1 for every block")
        if self.compile and self.liger:
            fault = "with compile: true the compiler itself fuses norms and activations"
            yield Problem("liger", fault, "use one of the two")
        if self.float8 != "none":
            yield from self._float8_problems()
        if self.cuda_graphs:
            yield from self._graph_problems()

    def _float8_problems(self) -> Iterator[Problem]:
        if self.precision != "bfloat16":
            fault = f"products of 8 bits give bfloat16, and engine.precision is {self.precision}"
            yield Problem("float8", fault, "use none, or engine.precision=bfloat16")
        if self.tensor_parallel > 1:
            fault = "maps of which ranks have a part each have products of their own"
            yield Problem("float8", fault, "use none, or tensor_parallel: 1")

    def _graph_problems(self) -> Iterator[Problem]:
        if not self.compile:
            fault = "graphs are recorded of what torch.compile makes of a block, and engine.compile is false"
            yield Problem("cuda_graphs", fault, "set compile: true, or use false")
        if self.activation_checkpointing != "none":
            fault = "blocks that are computed again amid the backward pass have not been tried in graphs"
            yield Problem("cuda_graphs", fault, "use false, or activation_checkpointing: none")
        for key in self.sharing:
            fault = f"with {key} ranks wait for each other inside of blocks: not tried in graphs"
            yield Problem("cuda_graphs", fault, f"use false, or {key}: 1")

    @property
    def cuda_only(self) -> Mapping[str, str]:
        """The keys that are set and that CUDA devices alone serve, each with the value that is off."""
        off = {"cuda_graphs": "false", "float8": "none", "liger": "false"}
        return {key: value for key, value in off.items() if getattr(self, key) not in (False, "none")}

    def check(self) -> None:
        """Raise ConfigError for what this machine lacks: a run's, where a dry run may be of another's."""
        if asked := self.cuda_only:
            problems = [replace(one, key=f"engine.{one.key}") for one in cuda.faults(asked, device())]
            if problems:
                raise ConfigError(problems)

    @property
    def defers(self) -> bool:
        """Whether `build` takes a model whose weights are drawn later, so that no process has it whole."""
        return False

    def build(
        self,
        model: nn.Module,
        optimizer: OptimizerConfig,
        micro_batch_size: int,
        weights: Deferred | None = None,
    ) -> Engine:
        """Place the model on this process's device and return the engine.

        `weights` are what a model is waiting for that was built inside `deferring`.
        """
        raise NotImplementedError


def _ungrouped(key: str, ranks: int) -> Iterator[Problem]:
    """Yield a problem where the processes are no multiple of the ranks that share a sample."""
    size = world().size
    if size % ranks:
        fits = [count for count in range(1, size + 1) if size % count == 0]
        more = -(-size // ranks) * ranks
        processes = "process is" if size == 1 else "processes are"
        fault = f"{size} {processes} no multiple of {ranks}"
        yield Problem(key, fault, f"use {' or '.join(map(str, fits))}, or start {more} processes")


def assert_layout(size: int, *, engine: str, built: object, expected: type) -> World:
    """Check that the engine is the one asked for, over the world that was asked for.

    Raises LayoutError: training on another layout than asked for would go unnoticed.
    """
    here = world()
    if size != here.size:
        raise LayoutError(f"engine {engine}: {here.size} processes were asked for, {size} take part")
    if not isinstance(built, expected):
        raise LayoutError(f"engine {engine}: expected a {expected.__name__}, got a {type(built).__name__}")
    return here


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """Return torch's autocast in bfloat16, and nothing for the precisions that the weights have."""
    if precision == "bfloat16":
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def trained(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the names and parameters that are not frozen, each once."""
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            yield name, parameter


def even_slice(numel: int, rank: int, size: int) -> tuple[int, int]:
    """Return the [start, stop) that `rank` of `size` writes of a tensor that every rank holds whole."""
    return numel * rank // size, numel * (rank + 1) // size
