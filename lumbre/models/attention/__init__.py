"""Attention: one module, the pattern of what sees what, and the kernels that compute it."""

from lumbre.models.attention.kernel import Kernel, KernelName, choose
from lumbre.models.attention.module import Attention, Cache
from lumbre.models.attention.pattern import Pattern
from lumbre.models.attention.recorded import recorded
from lumbre.models.attention.sequence import SequenceParallel

__all__ = ["Attention", "Cache", "Kernel", "KernelName", "Pattern", "SequenceParallel", "choose", "recorded"]
