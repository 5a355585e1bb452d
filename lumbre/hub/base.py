"""A Hugging Face family's names and layouts for our weights and configs, in both directions.

An adapter lists, tensor by tensor, what ours is called and made of there; moving and checking are shared.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, ClassVar, Protocol, cast

import torch
from torch import Tensor

from lumbre.errors import ModelError
from lumbre.models import Detector, LanguageModel, PositionConfig, TransformerConfig
from lumbre.models.config import LayerType
from lumbre.models.layers import Activation

ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
HF_ACTIVATIONS: dict[Activation, str] = {
    "gelu": "gelu",
    "gelu_tanh": "gelu_new",
    "relu": "relu",
    "silu": "silu",
}
LAYER_TYPES: dict[str, LayerType] = {"full_attention": "global", "sliding_attention": "local"}
HF_LAYER_TYPES: dict[LayerType, str] = {ours: theirs for theirs, ours in LAYER_TYPES.items()}
TRUNK = "trunk."
Model = LanguageModel | Detector
"""What a model folder can hold."""
Named = tuple[str, Tensor]
"""A tensor and its name."""
HEADS: dict[type[Model], str] = {LanguageModel: "language-model head", Detector: "detector's head"}
PAIR_HEAD = "pair_head"


class SpecialIds(Protocol):
    """The special tokens that a model's config states."""

    @property
    def pad_id(self) -> int | None:
        """Id of padding."""

    @property
    def bos_id(self) -> int | None:
        """Id of the first token of a sequence."""

    @property
    def eos_id(self) -> int | None:
        """Id of the token that ends a text."""

    @property
    def cls_id(self) -> int | None:
        """Id of the token that stands for a whole sequence, before it."""

    @property
    def sep_id(self) -> int | None:
        """Id of the token that ends each text of a pair."""


@dataclass(frozen=True)
class Entry:
    """One of our tensors and what holds it in the other format."""

    ours: str
    theirs: tuple[str, ...]
    """Their tensors; several are ours cut along the first axis."""
    sizes: tuple[int, ...] = ()
    """Rows of each of several."""
    transposed: bool = False
    """Whether theirs is ours transposed."""


class Ours(Mapping[str, Tensor]):
    """Another format's tensors under our names; what is mapped from a file takes memory when asked for."""

    def __init__(self, entries: Iterable[Entry], theirs: Mapping[str, Tensor]) -> None:
        self._entries = {entry.ours: entry for entry in entries}
        self._theirs = theirs

    def __getitem__(self, name: str) -> Tensor:
        entry = self._entries[name]
        parts = [self._theirs[theirs] for theirs in entry.theirs]
        tensor = torch.cat(parts) if entry.sizes else parts[0]
        return tensor.t() if entry.transposed else tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


class StateDictAdapter(ABC):
    """One Hugging Face model class."""

    model_type: ClassVar[str]
    """The key `model_type` of its config.json."""
    architecture: ClassVar[str]
    """The transformers class, as config.json names it."""
    auto_class: ClassVar[str]
    """The transformers Auto class that loads it with its heads."""
    kind: ClassVar[type[Model]] = LanguageModel
    """Our model with the same heads."""
    outputs: ClassVar[Mapping[str, str]] = {"logits": "logits"}
    """What our model returns, and what theirs calls it."""
    prefix: ClassVar[str] = ""
    """What the names of the trunk's tensors begin with, save in files of the bare trunk."""

    @abstractmethod
    def misfit(self, config: TransformerConfig) -> str | None:
        """Return why this class cannot express the model, or None where it can."""

    @abstractmethod
    def to_hf_config(self, config: TransformerConfig, special: SpecialIds | None) -> dict[str, Any]:
        """Return the family's part of config.json."""

    @abstractmethod
    def from_hf_config(self, config: Mapping[str, Any]) -> TransformerConfig:
        """Return our config for a config.json; raises ModelError naming a field that we do not have."""

    def check(self, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Raise ModelError where a file's tensors are not those of its config.json, and ours do not tell."""

    def settle(self, config: TransformerConfig, names: Collection[str]) -> TransformerConfig:
        """Return the config with what only the names of the file's tensors tell."""
        return config

    @abstractmethod
    def entries(self, config: TransformerConfig) -> Iterator[Entry]:
        """Yield every tensor of the model once, tied ones under one name."""

    def twins(self, config: TransformerConfig) -> dict[str, str]:
        """Return the names under which files may hold a tied tensor again, each with the tensor's own."""
        return {}

    def clean(self, config: TransformerConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the state under today's names, without what older files hold and no model reads."""
        return dict(state)

    def to_hf(
        self, config: TransformerConfig, ours: Iterable[Named], special: SpecialIds | None
    ) -> Iterator[Named]:
        """Yield tensors under the family's names as ours come, each contiguous on the CPU.

        What has no place there, as a tied tensor's second name, is passed over. Raises ModelError where one
        has not come.
        """
        entries = {entry.ours: entry for entry in self.entries(config)}
        for name, tensor in ours:
            if name in entries:
                yield from self.theirs(entries.pop(name), tensor.detach().cpu(), special)
        check_names(self.architecture, set(entries), ())

    def theirs(self, entry: Entry, tensor: Tensor, special: SpecialIds | None) -> Iterator[Named]:
        """Yield what holds one of our tensors."""
        tensor = tensor.t() if entry.transposed else tensor
        parts = torch.split(tensor, list(entry.sizes)) if entry.sizes else (tensor,)
        for name, part in zip(entry.theirs, parts, strict=True):
            yield name, part.contiguous()

    def to_hf_state(self, model: Model, special: SpecialIds | None = None) -> dict[str, Tensor]:
        """Return the weights of a model under the family's names, tied tensors once."""
        return dict(self.to_hf(model.config, model.state_dict().items(), special))

    def from_hf_state(
        self, config: TransformerConfig, state: Mapping[str, Tensor], *, head: bool = True
    ) -> Mapping[str, Tensor]:
        """Return the weights under our names; without `head` the trunk's alone, whatever head they have.

        Each is made of theirs when it is asked for. Raises ModelError for what is missing, extra, misshapen.
        """
        bare = not any(name.startswith(self.prefix) for name in state)
        named = {self.prefix + name: tensor for name, tensor in state.items()} if bare else state
        theirs = _untwinned(self.clean(config, named), self.twins(config))
        entries = list(self.entries(config))
        heads: dict[str, set[str]] = {}
        for entry in entries:
            if not entry.ours.startswith(TRUNK):
                heads.setdefault(entry.ours.split(".")[0], set()).update(entry.theirs)
        if not head:
            entries = [entry for entry in entries if entry.ours.startswith(TRUNK)]
            trunk = {name for name in theirs if name.startswith(self.prefix)}.difference(*heads.values())
            theirs = {name: theirs[name] for name in trunk}
        wanted = {name for entry in entries for name in entry.theirs}
        absent = wanted - theirs.keys()
        for part, names in heads.items():
            if names <= absent:
                called = "pair head" if part == PAIR_HEAD else head_name(self.kind)
                raise ModelError(
                    f"the weights have no {called}: {', '.join(sorted(names))} of {self.architecture} "
                    "not there; model.new_head: true starts a fresh head"
                )
        check_names(self.architecture, wanted, theirs.keys())
        with torch.device("meta"):
            shapes = {
                name: tuple(tensor.shape)
                for name, tensor in build_model(self.kind, config).state_dict().items()
            }
        for entry in entries:
            for name, shape in zip(entry.theirs, _shapes(entry, shapes[entry.ours]), strict=True):
                check_shape(name, shape, theirs[name])
        return Ours(entries, theirs)


def build_model(kind: type[Model], config: TransformerConfig) -> Model:
    """Return a fresh model of that kind."""
    return kind(cast(Any, config.build()))


def head_name(kind: type[Model]) -> str:
    """Return what the first head of a kind of model is called."""
    return next(name for base, name in HEADS.items() if issubclass(kind, base))


def check_names(what: str, wanted: set[str], found: Any) -> None:
    """Raise ModelError unless exactly the wanted tensors were found."""
    faults = [f"{name} is missing" for name in sorted(wanted - set(found))]
    faults += [f"{name} is not part of {what}" for name in sorted(set(found) - wanted)]
    if faults:
        more = f", and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise ModelError(
            f"the weights do not fit {what}: {'; '.join(faults[:5])}{more}; "
            "use the folder's own config.json, and weights saved with the language-model head"
        )


def check_shape(name: str, wanted: tuple[int, ...], tensor: Tensor) -> None:
    """Raise ModelError unless the tensor has the wanted shape."""
    if tuple(tensor.shape) != wanted:
        raise ModelError(
            f"the weights do not fit the config: {name} is {tuple(tensor.shape)}, {wanted} is expected; "
            "use the config.json that was saved with them"
        )


def checked(family: str, found: Any, wanted: Mapping[str, Any]) -> None:
    """Raise ModelError naming the first field of a Hugging Face config that asks for what we do not have."""
    for field, value in wanted.items():
        got = getattr(found, field, value)
        if got != value:
            raise ModelError(
                f"config.json of {family}: {field} is {got!r}, and only {value!r} is supported here; "
                "use a checkpoint without that feature"
            )


def activation(family: str, field: str, value: str) -> Activation:
    """Return our name of an activation; raises ModelError naming the field where we have none."""
    if value not in ACTIVATIONS:
        raise ModelError(
            f"config.json of {family}: {field} is {value!r}, and supported here are "
            f"{', '.join(sorted(ACTIVATIONS))}; use a checkpoint with one of them"
        )
    return ACTIVATIONS[value]


def unmet(config: TransformerConfig, position: type[PositionConfig], wanted: Mapping[str, Any]) -> str | None:
    """Return the first property of ours that is not as the family has it, as a reason.

    `wanted` says in what the family differs from a decoder with the plainest parts.
    """
    if not isinstance(config.position, position):
        kind = type(config.position).model_fields["type"].default
        return f"position is {kind}, not {position.model_fields['type'].default}"
    plain = {
        "causal": True,
        "embedding_width": config.hidden_size,
        "num_decoder_layers": 0,
        "kv_heads": config.num_heads,
        "head_width": config.hidden_size / config.num_heads,
        "mixture": None,
        "window": None,
        "norm": "layernorm",
        "norm_position": "pre",
        "gated_mlp": False,
        "bias": True,
        "has_attention_bias": config.bias,
        "qk_norm": False,
        "scaled_attention": True,
        "token_types": 0,
        "embedding_norm": False,
        "first_attention_norm": True,
        "has_final_norm": config.norm_position == "pre",
        "head_transform": False,
        "head_bias": False,
        "scaled_head": False,
    }
    for name, value in {**plain, **wanted}.items():
        got = attrgetter(name)(config)
        if got != value:
            return f"{name} is {got!r}, not {value!r}"
    return None


def layer_types(family: str, theirs: Sequence[str]) -> tuple[LayerType, ...]:
    """Return our layer_types, the shortest that repeats to theirs; raises ModelError where we lack one."""
    for kind in theirs:
        if kind not in LAYER_TYPES:
            raise ModelError(
                f"config.json of {family}: layer_types has {kind!r}, and supported here are "
                f"{' and '.join(sorted(LAYER_TYPES))}; use a checkpoint with these alone"
            )
    whole = tuple(LAYER_TYPES[kind] for kind in theirs)
    return next(
        whole[:size]
        for size in range(1, len(whole) + 1)
        if (whole[:size] * len(whole))[: len(whole)] == whole
    )


def window_width(family: str, field: str, types: Sequence[LayerType], value: int | None) -> int | None:
    """Return a width stated for local layers; raises ModelError where it is too narrow to see a neighbour."""
    if "local" not in types:
        return None
    if value is None or value < 2:
        raise ModelError(
            f"config.json of {family}: {field} is {value!r}, and layer_types has local layers, which need at "
            "least 2 here; use a checkpoint with a wider window"
        )
    return value


def ids(special: SpecialIds | None) -> dict[str, int | None]:
    """Return the special ids under Hugging Face's names."""
    return {
        "pad_token_id": special.pad_id if special else None,
        "bos_token_id": special.bos_id if special else None,
        "eos_token_id": special.eos_id if special else None,
    }


def pad_id(special: SpecialIds | None, usual: int) -> int:
    """Return the padding's id for a family that cannot do without, the usual one where there is none."""
    return usual if special is None or special.pad_id is None else special.pad_id


def _shapes(entry: Entry, ours: tuple[int, ...]) -> list[tuple[int, ...]]:
    if entry.sizes:
        return [(size, *ours[1:]) for size in entry.sizes]
    return [ours[::-1] if entry.transposed else ours]


def _untwinned(state: dict[str, Tensor], twins: Mapping[str, str]) -> dict[str, Tensor]:
    for twin, name in twins.items():
        if twin in state:
            tensor = state.pop(twin)
            if not torch.equal(state.setdefault(name, tensor).to(tensor.dtype), tensor):
                raise ModelError(
                    f"the weights do not fit the config, which ties {twin} to {name}: they differ; set "
                    "tie_word_embeddings to false in config.json where the model has both"
                )
    return state
