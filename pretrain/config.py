"""What a pretraining run is made of."""

import math
from collections.abc import Iterator
from dataclasses import replace

from pydantic import Field, PositiveInt

from lumbre import distributed
from lumbre.errors import ModelError, Problem, TokenizerError
from lumbre.hub import HuggingFaceConfig
from lumbre.models import ModelConfig, TransformerConfig
from lumbre.run_config import Child, RunConfig
from lumbre.tokenizer import FileTokenizerConfig, TokenizerConfig
from lumbre.trainer import TrainConfig

from .data.config import DataConfig
from .data.plan import Plan, Stage
from .downstream import ProbeConfig
from .generations import SamplesConfig
from .objectives import ModelKind, ObjectiveConfig

DESCRIPTIONS: dict[ModelKind, str] = {
    "encoder": "an encoder (causal: false)",
    "decoder": "a decoder (causal: true)",
    "encoder-decoder": "an encoder-decoder (num_decoder_layers above 0)",
}
EXAMPLES: dict[ModelKind, str] = {
    "encoder": "an encoder, such as bert-mini",
    "decoder": "a decoder, such as gpt-mini",
    "encoder-decoder": "an encoder-decoder, such as t5-mini",
}


class PretrainingConfig(TrainConfig):
    """How long to train, in which portions, and how often to look."""

    downstream_every: PositiveInt | None = None
    """Steps between runs of the `downstream` probes; none: only at the end."""


class PretrainConfig(RunConfig):
    """A corpus, a tokenizer, a model and an objective."""

    train: PretrainingConfig
    """How long, and in which portions."""
    tokenizer: TokenizerConfig
    """How text becomes tokens: trained on the corpus, or loaded."""
    data: DataConfig
    """The corpus, and how samples are cut from it."""
    model: ModelConfig
    """The Transformer to train, with fresh weights or from a Hugging Face folder."""
    objective: ObjectiveConfig
    """What it learns to predict."""
    eval_samples: PositiveInt = 256
    """Rows of each validation split that an evaluation reads, or all where there are fewer."""
    downstream: list[ProbeConfig] = Field(default_factory=list)
    """Fine-tuning configs that measure the weights in the course of the run, such as [quickstart]."""
    samples: SamplesConfig | None = None
    """Prompts that the model is given in the course of the run; what it says is tracked."""

    @property
    def plan(self) -> Plan:
        """Which samples each step takes."""
        global_batch, micro_batch = self.batch_sizes
        first = Stage(0, 0, self.data.seq_length, global_batch, micro_batch, self.data.weights)
        return Plan.of(first, self.data.stages, list(self.data.sets))

    def children(self) -> Iterator[Child]:
        """Yield the probes."""
        for index, probe in enumerate(self.downstream):
            overrides = tuple(probe.arguments(self.folder))
            yield Child(f"downstream.{index}", "finetune", probe.config, overrides, later="model.path")

    def problems(self) -> Iterator[Problem]:
        """Report a model that the objective or the sequence length does not fit."""
        yield from super().problems()
        yield from self._probe_problems()
        if isinstance(self.model, HuggingFaceConfig) and self.tokenizer.type != "file":
            fault = f"is trained anew, and the weights of {self.model.path} know another"
            yield Problem("tokenizer.type", fault, f"use tokenizer: {{type: file, path: {self.model.path}}}")
        yield from self._stage_problems()
        if self.train.spikes == "quarantine" and self.engine.sharing:
            fault = f"no document is one rank's alone with engine.{next(iter(self.engine.sharing))}"
            yield Problem("train.spikes", fault, "use roll_back")
        best = self.checkpoint.keep_best
        # What loss/ has parts of is known once the data is.
        if best is not None and not best.metric.startswith("loss/"):
            yield from self.checkpoint.unmeasured(("loss", "perplexity"))
        packing, readable = self.data.packing.type, self.objective.packings
        if readable and packing not in readable:
            fault = f"objective {self.objective.type} reads rows of {' or '.join(readable)}, not of {packing}"
            yield Problem("data.packing.type", fault, f"use {readable[0]}")
        try:
            model = self.model.architecture()
        except ModelError:
            return
        kind, wanted = _kind(model), self.objective.model_kinds
        if kind not in wanted:
            fault = f"objective {self.objective.type} on {DESCRIPTIONS[kind]}"
            yield Problem("model", fault, f"choose {', or '.join(EXAMPLES[one] for one in wanted)}")
        else:
            for problem in self.objective.model_misfits(model):
                started = isinstance(self.model, HuggingFaceConfig) and problem.key.startswith("model.")
                yield replace(problem, key="model.path") if started else problem
        tokens = self._tokens()
        if model.vocab_size is not None and tokens is not None and model.vocab_size < tokens:
            fault = (
                f"{model.vocab_size} embeddings are too few for the {tokens} tokens of {self.tokenizer.type}"
            )
            started = isinstance(self.model, HuggingFaceConfig)
            remedy = "use the folder's own tokenizer" if started else "leave the key out"
            yield Problem("model.path" if started else "model.vocab_size", f"{fault} tokenizer", remedy)
        yield from self._sequence_problems(model)
        yield from self._tensor_problems(model)
        for key, length in self._lengths().items():
            longest = self.objective.longest(length, kind)
            longest += -longest % self.engine.sequence_parallel
            if model.max_length is not None and longest > model.max_length:
                tokens_of = f", of which {self.objective.type} makes up to {longest:,}"
                made = tokens_of if longest > length else ""
                fault = f"{length} tokens{made}, and the model has {model.max_length} positions"
                most = length * model.max_length // longest
                yield Problem(key, fault, f"at most {most}, or a larger position.max_length")

    def _lengths(self) -> dict[str, int]:
        """Return every row length of the run by the key that states it."""
        lengths = {"data.seq_length": self.data.seq_length}
        for index, stage in enumerate(self.data.stages):
            if stage.seq_length is not None:
                lengths[f"data.stages.{index}.seq_length"] = stage.seq_length
        return lengths

    def _sequence_problems(self, model: TransformerConfig) -> Iterator[Problem]:
        """Yield rows and heads that do not fall into as many equal parts as ranks share a row."""
        ranks, lengths, alike = self.engine.sequence_parallel, self._lengths(), self.engine.tensor_parallel
        heads = {
            name: stack.num_heads // alike
            for name, stack in self.objective.stacks(model).items()
            if stack.num_heads % alike == 0
        }
        common = math.gcd(distributed.world().size, *lengths.values(), *heads.values())
        fits = " or ".join(str(count) for count in range(1, common + 1) if common % count == 0)
        for key, length in lengths.items():
            if length % ranks:
                fault = f"{length} tokens do not fall into the {ranks} parts of engine.sequence_parallel"
                near = [whole for whole in (length - length % ranks, length + -length % ranks) if whole]
                remedy = f"use {' or '.join(map(str, near))}, or engine.sequence_parallel={fits}"
                yield Problem(key, fault, remedy)
        for name, number in heads.items():
            if number % ranks:
                left = f" that engine.tensor_parallel={alike} leaves each" if alike > 1 else ""
                what = f"{number} {'heads' if number > 1 else 'head'} of {name}{left}"
                yield Problem("engine.sequence_parallel", f"{ranks} ranks cannot share {what}", f"use {fits}")

    def _tensor_problems(self, model: TransformerConfig) -> Iterator[Problem]:
        """Yield heads and widths that do not fall into as many equal parts as ranks share matrices."""
        key, ranks = "engine.tensor_parallel", self.engine.tensor_parallel
        if ranks == 1:
            return
        if model.mixture is not None:
            remedy = "use 1; engine.zero_stage=3 shares experts out over ranks too"
            yield Problem(key, "ranks share the matrices of one MLP, and the model has experts", remedy)
        sizes = {
            f"{what} of {name}": number
            for name, stack in self.objective.stacks(model).items()
            for what, number in (
                ("heads", stack.num_heads),
                ("key/value heads", stack.kv_heads),
                ("numbers inside the MLP", stack.mlp_width),
            )
        }
        common = math.gcd(distributed.world().size, *sizes.values())
        fits = " or ".join(str(count) for count in range(1, common + 1) if common % count == 0)
        for what, number in sizes.items():
            if number % ranks:
                what = what.replace("heads", "head") if number == 1 else what
                yield Problem(key, f"{ranks} ranks cannot share {number} {what}", f"use {fits}")

    def _probe_problems(self) -> Iterator[Problem]:
        """Yield probes of one name, and an interval without a probe."""
        titles = [probe.title for probe in self.downstream]
        for index, title in enumerate(titles):
            if title in titles[:index]:
                fault = f"{title!r} is the name of downstream.{titles.index(title)} too"
                yield Problem(f"downstream.{index}", fault, "give it a `name`")
        if self.train.downstream_every is not None and not titles:
            remedy = "name fine-tuning configs, as in downstream: [quickstart]"
            yield Problem("train.downstream_every", "there is no probe to run", remedy)

    def _stage_problems(self) -> Iterator[Problem]:
        """Yield the lengths that the objective has no use for, and the batches that cannot be cut."""
        told = set()
        for key, length in self._lengths().items():
            for problem in self.objective.misfits(self.tokenizer, length):
                if problem.key == "data.seq_length":
                    yield replace(problem, key=key)
                elif problem not in told:
                    yield problem
                    told.add(problem)
        if not self.train.is_determined or any(self.batch_misfits()):
            return
        groups = self.engine.group.count
        for index, stage in enumerate(self.plan.stages[1:]):
            fits = stage.micro_batch_size * groups
            if stage.global_batch_size % fits:
                fault = (
                    f"{stage.global_batch_size} is no multiple of micro_batch_size x {self.groups_called} "
                    f"= {stage.micro_batch_size} x {groups} = {fits}"
                )
                key = f"data.stages.{index}.global_batch_size"
                yield Problem(key, fault, f"use a multiple of {fits}, or set the stage's micro_batch_size")

    def _tokens(self) -> int | None:
        """Return how many tokens a tokenizer that exists already has."""
        if not isinstance(self.tokenizer, FileTokenizerConfig):
            return None
        try:
            return self.tokenizer.build([]).vocab_size
        except TokenizerError:
            return None


def _kind(model: TransformerConfig) -> ModelKind:
    if model.num_decoder_layers:
        return "encoder-decoder"
    return "decoder" if model.causal else "encoder"
