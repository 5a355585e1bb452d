"""Encoders of transformers without padding: their blocks compute the tokens there are, one after the other.

Between embeddings and head the rows of a batch become one row of all their tokens, and only attention, a
small part of the work, sees them as texts again, like lengths together (Zeng et al., 2022, arXiv:2208.08124).
Shapes: B batch, T time, S all tokens, N heads, H head size, D hidden.
"""

import copy
import types
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

ENCODERS = ("BertEncoder", "RobertaEncoder", "XLMRobertaEncoder", "CamembertEncoder", "ElectraEncoder")
"""Stacks of blocks whose positions are all in the embeddings before them."""
ATTENTION = "lumbre_unpadded"
GROUPS = 4
"""Parts of a batch, by length, that attention pads each for itself."""


@dataclass(frozen=True)
class Group:
    """Rows of like length."""

    tokens: slice
    """Their tokens among all."""
    place_BT: Tensor
    """The place of each padded token among the group's tokens."""
    there_BT: Tensor | None
    """Where there is a token; None where all rows are as long."""


@dataclass(frozen=True)
class Texts:
    """How the tokens of a batch are rows."""

    index_S: Tensor
    """The place of each token in the flattened batch, long rows first."""
    groups: tuple[Group, ...]

    @classmethod
    def of(cls, there_BT: Tensor) -> "Texts":
        """Return the texts of a batch that has tokens at these places."""
        lengths_B = there_BT.sum(dim=1)
        order_B = lengths_B.argsort(descending=True, stable=True)
        flat_BT = torch.arange(there_BT.numel(), device=there_BT.device).view_as(there_BT)
        index_S = flat_BT[order_B][there_BT[order_B]]
        groups, begin = [], 0
        for rows in order_B.tensor_split(min(GROUPS, len(order_B))):
            lengths = lengths_B[rows]
            longest, total = int(lengths.max()), int(lengths.sum())
            time_T = torch.arange(longest, device=rows.device)
            within_BT = time_T < lengths[:, None]
            starts_B = lengths.cumsum(0) - lengths
            place_BT = (starts_B[:, None] + time_T).clamp(max=total - 1)
            whole = total == longest * len(rows)
            groups.append(Group(slice(begin, begin + total), place_BT, None if whole else within_BT))
            begin += total
        return cls(index_S, tuple(groups))


def unpad(model: nn.Module) -> nn.Module:
    """Let the model's encoder leave padding out, if it is one of those that can; return the model.

    Logits and gradients are the same but for rounding. Nothing of it is saved with the model.
    """
    for encoder in model.modules():
        if type(encoder).__name__ in ENCODERS and not encoder.config.is_decoder:  # type: ignore[union-attr]
            _unpad(encoder)
    return model


def is_unpadded(model: nn.Module) -> bool:
    """Return whether the model's encoder leaves padding out."""
    return any(type(one).__name__ in ENCODERS and "forward" in vars(one) for one in model.modules())


def _unpad(encoder: Any) -> None:
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, attention)
    own = copy.copy(encoder.config)
    # Not by its setter, which asks whether a package has this implementation.
    own._attn_implementation_internal = ATTENTION
    for module in encoder.modules():
        if getattr(module, "config", None) is encoder.config and module is not encoder:
            module.config = own
    padded = encoder.forward

    def forward(self: Any, hidden_states: Tensor, attention_mask: Tensor | None = None, **others: Any) -> Any:
        if attention_mask is None or attention_mask.ndim != 4:
            return padded(hidden_states, attention_mask=attention_mask, **others)
        seen_BT = attention_mask[:, 0, -1]
        there_BT = seen_BT if seen_BT.dtype == torch.bool else seen_BT >= 0
        texts = Texts.of(there_BT)
        flat_BTD = hidden_states.flatten(0, 1)
        output = padded(flat_BTD[texts.index_S][None], attention_mask=None, texts=texts, **others)
        packed_SD = output.last_hidden_state[0]
        output.last_hidden_state = (
            packed_SD.new_zeros(flat_BTD.shape[0], packed_SD.shape[1])
            .index_copy(0, texts.index_S, packed_SD)
            .view_as(hidden_states)
        )
        return output

    encoder.forward = types.MethodType(forward, encoder)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    texts: Texts | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Return attention of [1, N, S, H] within each text, as [1, S, N, H]; plain without `texts`."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if texts is None:
        found, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **others)
        return found, None
    parts = []
    for group in texts.groups:
        q_BNTH, k_BNTH, v_BNTH = (_padded(tensor, group) for tensor in (query, key, value))
        mask = None if group.there_BT is None else group.there_BT[:, None, None, :]
        found_BTNH, _ = sdpa_attention_forward(module, q_BNTH, k_BNTH, v_BNTH, mask, **others)
        flat = found_BTNH.flatten(0, 1)
        parts.append(flat if group.there_BT is None else flat[group.there_BT.flatten()])
    return torch.cat(parts)[None], None


def _padded(tensor_1NSH: Tensor, group: Group) -> Tensor:
    """Return a group's rows [B, N, T, H]."""
    its_NSH = tensor_1NSH[0, :, group.tokens]
    if group.there_BT is not None:
        its_NSH = its_NSH.index_select(1, group.place_BT.flatten())
    rows, longest = group.place_BT.shape
    return its_NSH.view(its_NSH.shape[0], rows, longest, its_NSH.shape[2]).transpose(0, 1)
