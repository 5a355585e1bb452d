"""One Transformer for encoders and decoders (Vaswani et al., 2017, arXiv:1706.03762).

Shapes: B batch, T time, D hidden, S an encoder's time.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lumbre.errors import ModelError
from lumbre.models.attention import Attention, Cache, Kernel, KernelName, Pattern, SequenceParallel, choose
from lumbre.models.config import LayerType, TransformerConfig
from lumbre.models.init import init_weights, scale_residual_init
from lumbre.models.layers import build_norm, take
from lumbre.models.mixture import MixtureConfig, MixtureOfExperts
from lumbre.models.mlp import Mlp
from lumbre.models.position import Rotation
from lumbre.models.recompute import InTurn, Recompute, Steps, in_turn, run
from lumbre.models.tensor import TensorParallel

FEW = 0.9
"""The part of the tokens up to which it pays to take some out within the last block, not after it."""


class Hidden(NamedTuple):
    """What a trunk returns."""

    x_BTD: Tensor
    """Hidden states; x_MD where some tokens alone were asked for."""
    balance: Tensor | None
    """The balance loss of the experts, summed over rows and layers, where there are experts."""


class Memory(NamedTuple):
    """What a decoder reads of an encoder."""

    x_BSD: Tensor
    """The encoder's output; one row a row of the decoder's."""
    documents_BS: Tensor | None = None
    """The document of each of its tokens, 0 for padding; None where nothing is packed or padded."""
    cache: Cache | None = None
    """Each layer's keys and values of it, kept from one new token to the next."""


class View(NamedTuple):
    """What a kind of layer is given beside its input, made once per forward."""

    rotation: Rotation | None
    kernel: Kernel
    kept_BT: Tensor | None
    """Which tokens are no padding; None where none is."""
    memory: Memory | None
    memory_kernel: Kernel | None
    cache: Cache | None
    sequence: SequenceParallel


class Block(nn.Module):
    """Attention, in a decoder of an encoder-decoder attention to the encoder, then the MLP; each is added."""

    def __init__(self, config: TransformerConfig, layer: int, cross: bool) -> None:
        super().__init__()
        self.layer = layer
        self.pre_norm = config.norm_position == "pre"
        self.attention = _attention(config, cross=False)
        own_norm = layer > 0 or config.first_attention_norm
        self.attention_norm = _norm(config) if own_norm else nn.Identity()
        self.cross_attention = _attention(config, cross=True) if cross else None
        self.cross_attention_norm = _norm(config) if cross else None
        self.mlp = _mlp(config)
        self.mlp_norm = _norm(config)

    @property
    def narrows(self) -> bool:
        """Whether the block can go on with some tokens alone once they have attended.

        Experts share out, and cross-attention is laid out, by whole rows.
        """
        return self.cross_attention is None and isinstance(self.mlp, Mlp)

    def forward(self, x_BTD: Tensor, view: View, rows_M: Tensor | None = None) -> Hidden:
        """Map x_BTD to the next block's input; with `rows_M`, to x_MD of these of the B * T tokens."""
        pre = self.pre_norm
        read = self.attention_norm(x_BTD) if pre else x_BTD
        y_BTD = self.attention(
            read, view.rotation, view.kernel, cache=view.cache, layer=self.layer, rows_M=rows_M
        )
        x_BTD = (x_BTD if rows_M is None else take(x_BTD.flatten(0, 1), rows_M)) + y_BTD
        x_BTD = x_BTD if pre else self.attention_norm(x_BTD)
        if self.cross_attention is not None and self.cross_attention_norm is not None:
            assert view.memory is not None
            x_BTD = x_BTD + self.cross_attention(
                self.cross_attention_norm(x_BTD) if pre else x_BTD,
                None,
                view.memory_kernel,
                memory_BTD=view.memory.x_BSD,
                cache=view.memory.cache,
                layer=self.layer,
            )
            x_BTD = x_BTD if pre else self.cross_attention_norm(x_BTD)
        read = self.mlp_norm(x_BTD) if pre else x_BTD
        balance = None
        if isinstance(self.mlp, MixtureOfExperts):
            y_BTD, balance = self.mlp(read, view.kept_BT, view.sequence.sum)
        else:
            y_BTD = self.mlp(read)
        x_BTD = x_BTD + y_BTD
        return Hidden(x_BTD if pre else self.mlp_norm(x_BTD), balance)


class Transformer(nn.Module):
    """The trunk: embeddings, blocks, and the final norm where there is one."""

    def __init__(
        self, config: TransformerConfig, *, cross: bool = False, embedding: nn.Embedding | None = None
    ) -> None:
        super().__init__()
        assert config.vocab_size is not None
        self.config = config
        D, E = config.hidden_size, config.embedding_width
        self.embedding = embedding or nn.Embedding(config.vocab_size, E)
        self.position = config.position.build(E, config.num_heads, config.head_width, config.causal)
        self.token_type_embedding = nn.Embedding(config.token_types, E) if config.token_types else None
        self.embedding_norm = _norm(config, E) if config.embedding_norm else None
        self.embedding_projection = nn.Linear(E, D, bias=config.bias) if E != D else None
        self.blocks = nn.ModuleList(Block(config, layer, cross) for layer in range(config.num_layers))
        self.final_norm = _norm(config) if config.has_final_norm else None
        self.attention_kernel: KernelName = "auto"
        self.recompute: Recompute = "none"
        self.in_turn: InTurn = in_turn
        """What applies the blocks."""
        self.sequence = SequenceParallel()
        """Which part of each row a forward pass on this rank is given."""
        self.tensor = TensorParallel()
        """Which part of each block this rank has."""
        init_weights(self, config.init, config.init_std)
        if config.scaled_residual_init:
            scale_residual_init(self.blocks, config.num_layers)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        *,
        embeddings_BTD: Tensor | None = None,
        memory: Memory | None = None,
        cache: Cache | None = None,
        rows_M: Tensor | None = None,
        prefix_mask: Tensor | None = None,
    ) -> Hidden:
        """Return the hidden states of input_ids [B, T], or x_MD of those of the B * T tokens in `rows_M`.

        `document_ids` (0 padding, 1.. within the row) keeps packed documents apart, and their positions
        restart unless `position_ids` says otherwise; `attention_mask` (1 keep, 0 padding) is the plain form.
        `embeddings_BTD` stand for the tokens' own. With a `cache`, input_ids go on from the tokens in it,
        and attention_mask covers both. A decoder's tokens in `prefix_mask` (bool [B, T]) are seen by all of
        their document, earlier ones too. Where ranks share rows, what is given and returned is this rank's
        part of them. Raises ModelError when T is beyond the positions that the model has.
        """
        x_BTD: Tensor = self.embedding(input_ids) if embeddings_BTD is None else embeddings_BTD
        past = 0 if cache is None else cache.get_seq_length()
        T, limit = past + x_BTD.shape[1] * self.sequence.size, self.config.max_length
        if limit is not None and limit < T:
            raise ModelError(
                f"a sequence of {T} tokens is longer than the {limit} positions of the model; "
                "shorten it, or train with a larger position.max_length"
            )
        # Attention is to whole rows: from here on these are.
        attention_mask, position_ids, document_ids, prefix_mask = self.sequence.whole(
            attention_mask, position_ids, document_ids, prefix_mask
        )
        if past and attention_mask is not None:
            key_positions = (attention_mask.cumsum(1) - 1).clamp(min=0)
        elif past or position_ids is None:
            key_positions = _positions(T, x_BTD.device, document_ids)
        else:
            key_positions = position_ids
        if position_ids is None:
            position_ids = key_positions[:, past:]
        document_ids = without_padding(attention_mask, document_ids)
        x_BTD = self._embed(x_BTD, self.sequence.part(position_ids), token_type_ids)
        if prefix_mask is not None and document_ids is not None:
            prefix_mask = prefix_mask & (document_ids != 0)
        pattern = Pattern(
            self.config.causal,
            bias_BNQT=self.position.bias(position_ids, key_positions, self._heads),
            past=past,
            prefix_BT=prefix_mask if self.config.causal else None,
        )
        views = self._views(x_BTD, position_ids, document_ids, pattern, memory, cache)
        steps: Steps = [
            (block, (views[kind],)) for block, kind in zip(self.blocks, self.config.layers, strict=False)
        ]
        last = self.blocks[-1]
        few = rows_M is not None and len(rows_M) < FEW * x_BTD.shape[:2].numel()
        if few and isinstance(last, Block) and last.narrows:
            # What the last block does after attending is seen by nobody else.
            steps[-1] = (last, (*steps[-1][1], rows_M))
            rows_M = None
        x_BTD, balance = run(steps, x_BTD, self.recompute if self.training else "none", self.in_turn)
        if rows_M is not None:
            x_BTD = take(x_BTD.flatten(0, 1), rows_M)
        return Hidden(x_BTD if self.final_norm is None else self.final_norm(x_BTD), balance)

    @property
    def _heads(self) -> slice:
        """Which heads this rank attends with: some of those that its part of the blocks has."""
        heads = range(self.config.num_heads)[self.tensor.heads(self.config.num_heads)]
        heads = heads[self.sequence.heads(len(heads))]
        return slice(heads.start, heads.stop)

    def _embed(self, x_BTD: Tensor, position_ids: Tensor, token_type_ids: Tensor | None) -> Tensor:
        """Add segments and positions to the tokens' embeddings."""
        if self.token_type_embedding is not None:
            types = position_ids.new_zeros(1, 1) if token_type_ids is None else token_type_ids
            x_BTD = x_BTD + self.token_type_embedding(types)
        x_BTD = self.position.embed(x_BTD, position_ids)
        x_BTD = x_BTD if self.embedding_norm is None else self.embedding_norm(x_BTD)
        return x_BTD if self.embedding_projection is None else self.embedding_projection(x_BTD)

    def _views(
        self,
        x_BTD: Tensor,
        position_ids: Tensor,
        document_ids: Tensor | None,
        pattern: Pattern,
        memory: Memory | None,
        cache: Cache | None,
    ) -> dict[LayerType, View]:
        """Return what each kind of layer is given: made once, shared by all layers of the kind."""
        past, sequence = pattern.past, self.sequence
        kept_BT = None if document_ids is None else sequence.part(document_ids[:, past:]) != 0
        packed = document_ids is not None and _apart(document_ids, self.config.causal)
        keys = document_ids if packed else None
        queries = keys if keys is None or not past else keys[:, past:]
        memory_kernel = None if memory is None else self._memory_kernel(x_BTD, document_ids, memory, past)
        views: dict[LayerType, View] = {}
        for kind in dict.fromkeys(self.config.layers[: len(self.blocks)]):
            window = self.config.window if kind == "local" else None
            own = replace(pattern, window=window, query_documents_BQ=queries, key_documents_BT=keys)
            row = sequence.shaped(x_BTD)
            kernel = choose(self.attention_kernel, own, row, past + row.shape[1], self.config.head_width)
            rotation = self.position.rotation(sequence.part(position_ids), local=kind == "local")
            kernel = sequence.kernel(kernel)
            views[kind] = View(rotation, kernel, kept_BT, memory, memory_kernel, cache, sequence)
        return views

    def _memory_kernel(self, x_BTD: Tensor, document_ids: Tensor | None, memory: Memory, past: int) -> Kernel:
        queries, row = None, self.sequence.shaped(x_BTD)
        (documents_BS,) = self.sequence.whole(memory.documents_BS)
        if documents_BS is not None:
            plain = torch.ones(row.shape[:2], dtype=documents_BS.dtype, device=x_BTD.device)
            queries = plain if document_ids is None else document_ids[:, past:]
        pattern = Pattern(False, None, queries, documents_BS)
        keys = memory.x_BSD.shape[1] * self.sequence.size
        return self.sequence.kernel(choose("dense", pattern, row, keys))


def _norm(config: TransformerConfig, size: int | None = None) -> nn.Module:
    return build_norm(config.norm, size or config.hidden_size, config.norm_epsilon, config.bias)


def _attention(config: TransformerConfig, cross: bool) -> Attention:
    return Attention(
        config.hidden_size,
        config.num_heads,
        config.kv_heads,
        config.head_width,
        config.has_attention_bias,
        cross=cross,
        scaled=config.scaled_attention,
        qk_norm=(config.norm, config.norm_epsilon) if config.qk_norm else None,
    )


def _mlp(config: TransformerConfig) -> nn.Module:
    sizes = (config.hidden_size, config.mlp_width, config.activation, config.gated_mlp, config.bias)
    if isinstance(config.mlp, MixtureConfig):
        return MixtureOfExperts(*sizes, config.mlp)
    return Mlp(*sizes)


def without_padding(attention_mask: Tensor | None, document_ids: Tensor | None) -> Tensor | None:
    """Return the document of each token, 0 where the mask says padding; None where nothing is either."""
    if attention_mask is None:
        return document_ids
    kept = attention_mask != 0
    return kept.int() if document_ids is None else document_ids.masked_fill(~kept, 0)


def _positions(length: int, device: torch.device, document_ids: Tensor | None) -> Tensor:
    time_T = torch.arange(length, device=device)
    if document_ids is None:
        return time_T[None]
    starts_BT = torch.ones_like(document_ids, dtype=torch.bool)
    starts_BT[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    return time_T - torch.where(starts_BT, time_T, 0).cummax(dim=1).values


def _apart(document_ids_BT: Tensor, causal: bool) -> bool:
    """Return whether some row has more than one document or padding that a token could see.

    Reads one flag back from the device.
    """
    other_BT = document_ids_BT != document_ids_BT[:, :1]
    if causal:
        # What comes after the only document is padding, which nothing before it sees.
        other_BT = other_BT & (document_ids_BT != 0)
    return bool(other_BT.any())
