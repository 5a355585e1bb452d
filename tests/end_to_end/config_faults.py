"""Configs that are broken as people break them: each fault recurs in the trackers of public tools.

The words that Lumbre's message must have stand beside each fault, and where people met it.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lumbre import hub
from lumbre.models import LanguageModel, TransformerConfig
from lumbre.tokenizer import BpeConfig, WordPieceConfig

PRETRAIN = """\
name: broken
seed: 3
tokenizer:
  type: wordpiece
  vocab_size: 600
data:
  sources:
    - type: text
      paths: [corpus.txt]
  seq_length: 32
model:
  type: transformer
  causal: false
  hidden_size: 16
  num_layers: 2
  num_heads: 2
  position: {type: learned, max_length: 64}
objective:
  type: mlm
optimizer:
  type: adamw
  learning_rate: 3.0e-3
schedule:
  type: linear
  warmup: 0.1
train:
  steps: 24
  global_batch_size: 8
  micro_batch_size: 2
  eval_every: 8
engine:
  type: deepspeed
  zero_stage: 1
  deepspeed: {}
checkpoint:
  every_steps: 6
"""
FINETUNE = """\
name: broken
model:
  path: bert
method:
  type: full
task:
  type: classification
  text_field: text
  label_field: label
  max_length: 32
data:
  type: jsonl
  train: train.jsonl
  validation: validation.jsonl
optimizer:
  type: adamw
  learning_rate: 1.0e-3
train:
  steps: 20
  global_batch_size: 8
  micro_batch_size: 4
  eval_every: 10
selection:
  keep: best
engine:
  type: accelerate
"""
SLURM = """\
type: slurm
partition: gpu
nodes: 2
gpus_per_node: 4
threads_per_process: 4
time: '4:00:00'
env:
  NCCL_DEBUG: INFO
"""
SSH = """\
type: ssh
hosts:
  - gpu1 slots=4
  - gpu2 slots=4
"""
DOCKER = """\
type: docker
image: lumbre:cpu
"""
BASES: Mapping[str, str] = {
    "pretrain": PRETRAIN,
    "finetune": FINETUNE,
    "slurm": SLURM,
    "ssh": SSH,
    "docker": DOCKER,
}
LAUNCHERS = ("slurm", "ssh", "docker")
"""Bases that are launch configs; the job is a sound pretraining."""
SINFO = """\
#!/bin/sh
# A stand-in for Slurm's sinfo: 4 nodes with 4 GPUs, and 16 without. No job can run on them.
echo 'gpu|4|32|1-00:00:00|gpu:a100:4'
echo 'cpu*|16|64|7-00:00:00|(null)'
"""
ENGINE = """\
#!/bin/sh
# A stand-in for docker: an engine that answers, and has the image lumbre:cpu. No container can be started.
[ "$1" = version ] || [ "$3" = lumbre:cpu ]
"""
STAND_IN = {"PATH": os.pathsep.join(["stand-in", os.environ.get("PATH", "")])}
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HOME": "empty-cache"}
"""A compute node without a network, whose cache has nothing."""


@dataclass(frozen=True)
class Fault:
    """One broken config: how it differs from a sound one, and what must be said about it."""

    name: str
    edits: Mapping[str, str]
    """Text of the sound YAML, and what stands there instead."""
    says: tuple[str, ...]
    """The key ("": the whole file), and words of the fault and of the remedy."""
    source: str
    """Public threads in which people met it."""
    program: str = "pretrain"
    launcher: tuple[str, ...] = ("local", "processes=1")
    """The launch config and its overrides."""
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def processes(self) -> int:
        """How many processes are asked for, where one machine starts them."""
        return next(
            (int(word.partition("=")[2]) for word in self.launcher if word.startswith("processes=")), 1
        )

    def arguments(self, file: str) -> list[str]:
        """Return what follows `lumbre launch`, for the broken YAML in that file."""
        if self.program in LAUNCHERS:
            return [file, "--", "pretrain", "sound.yaml"]
        return [*self.launcher, "--", self.program, file]

    @property
    def config(self) -> str:
        """The broken YAML."""
        text = BASES[self.program]
        for old, new in self.edits.items():
            assert text.count(old) == 1, f"{self.name}: {old!r}"
            text = text.replace(old, new)
        return text


def lay_out(folder: Path) -> None:
    """Write what the sound configs need: a corpus, labelled examples, and model folders, tiny and random."""
    text = Path(__file__).read_text()
    (folder / "corpus.txt").write_text(text)
    (folder / "file-in-the-way").write_text("no folder")
    (folder / "sound.yaml").write_text(PRETRAIN.replace("global_batch_size: 8", "global_batch_size: 64"))
    (folder / "stand-in").mkdir()
    for name, text in {"sinfo": SINFO, "docker": ENGINE}.items():
        (folder / "stand-in" / name).write_text(text)
        (folder / "stand-in" / name).chmod(0o755)
    for split in ("train", "validation"):
        records = [{"text": text[at : at + 40], "label": "ab"[at % 2]} for at in range(20)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_layers": 2, "num_heads": 2}
    bert = {"causal": False, "norm_position": "post", "norm_epsilon": 1e-12, "token_types": 2}
    bert |= {"embedding_norm": True, "head_transform": True, "head_bias": True}
    learned = {"position": {"type": "learned", "max_length": 48}}
    for name, keys, tokenizer in (
        ("bert", small | bert | learned, WordPieceConfig(vocab_size=512)),
        ("gpt2", small | learned | {"causal": True}, BpeConfig(vocab_size=512)),
    ):
        model = LanguageModel(TransformerConfig.model_validate(keys).build(512))
        hub.save(model, tokenizer.build([text]), folder / name)
    for name in ("pointer", "bare", "pickled"):
        shutil.copytree(folder / "bert", folder / name)
    (folder / "pointer/model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\nsize 9\n")
    for file in (folder / "bare").glob("tokenizer*"):
        file.unlink()
    (folder / "pickled/model.safetensors").rename(folder / "pickled/pytorch_model.bin")


FAULTS: tuple[Fault, ...] = (
    # Batches
    Fault(
        "global batch is no multiple of micro batch x accumulation",
        {"global_batch_size: 8": "global_batch_size: 7"},
        ("train.global_batch_size", "= 2 x 3 x 1 = 6", "fits"),
        "deepspeedai/DeepSpeed#6914, CASIA-LMC-Lab/AnomalyGPT#19",
    ),
    Fault(
        "global batch does not fit the number of processes",
        {"global_batch_size: 8": "global_batch_size: 14"},
        ("train.global_batch_size", "x processes = 2 x 3 x 2 = 12", "a multiple of"),
        "OpenRLHF/OpenRLHF#346, bigcode-project/starcoder#41",
        launcher=("local", "processes=2"),
    ),
    Fault(
        "one batch size alone",
        {"  micro_batch_size: 2\n": ""},
        ("train.global_batch_size", "not determined", "set two of"),
        "deepspeedai/DeepSpeed#17",
    ),
    Fault(
        "evaluation every 0 steps",
        {"eval_every: 8": "eval_every: 0"},
        ("train.eval_every", "greater than 0", "only at the end"),
        "deepset-ai/FARM#307, huggingface/transformers#7556",
    ),
    Fault(
        "steps in scientific notation",
        {"steps: 24": "steps: 1e4"},
        ("train.steps", "integer", "10000"),
        "hiyouga/LlamaFactory#4014, MichiganCOG/ViP#8",
    ),
    Fault(
        "warm-up in steps",
        {"warmup: 0.1": "warmup: 2000"},
        ("schedule.warmup", "less than or equal to 1", "share of train.steps"),
        "NVIDIA-NeMo/Megatron-Bridge#2857",
    ),
    # ZeRO, offload and raw DeepSpeed keys
    Fault(
        "parameters offloaded below stage 3",
        {"deepspeed: {}": "offload: {parameters: cpu}"},
        ("engine.offload.parameters", "use engine.zero_stage=3"),
        "deepspeedai/DeepSpeed#1403",
    ),
    Fault(
        "optimizer offloaded at stage 0",
        {
            "zero_stage: 1": "zero_stage: 0",
            "deepspeed: {}": "offload: {optimizer: cpu}",
        },
        ("engine.offload.optimizer", "use engine.zero_stage=1 or more"),
        "deepspeedai/DeepSpeed#1403",
    ),
    Fault(
        "offload by DeepSpeed's own key",
        {
            "zero_stage: 1": "zero_stage: 2",
            "deepspeed: {}": "deepspeed: {zero_optimization: {offload_optimizer: {device: cpu}}}",
        },
        ("engine.deepspeed.zero_optimization.offload_optimizer.device", "set by engine.offload.optimizer"),
        "huggingface/transformers#11044",
    ),
    Fault(
        "offload to a disk that is not named",
        {
            "zero_stage: 1": "zero_stage: 3",
            "deepspeed: {}": "offload: {optimizer: disk}",
        },
        ("engine.offload.folder", "optimizer is disk", "name a folder"),
        "deepspeedai/DeepSpeed#2624, huggingface/accelerate#1463",
    ),
    Fault(
        "gradient clipping stated twice",
        {"deepspeed: {}": "deepspeed: {gradient_clipping: 0.3}"},
        ("engine.deepspeed.gradient_clipping", "set by optimizer.gradient_clipping", "delete it"),
        "axolotl-ai-cloud/axolotl#1381, huggingface/transformers#12021",
    ),
    Fault(
        "batch size stated twice",
        {"deepspeed: {}": "deepspeed: {train_batch_size: 64}"},
        ("engine.deepspeed.train_batch_size", "set by train.global_batch_size"),
        "hendrycks/apps#9",
    ),
    Fault(
        "optimizer stated twice",
        {"deepspeed: {}": "deepspeed: {optimizer: {type: Adam, params: {lr: 0.0001}}}"},
        ("engine.deepspeed.optimizer", "set by optimizer"),
        "hendrycks/apps#9, huggingface/transformers#11044",
    ),
    Fault(
        "fp16 and bf16 at once",
        {"deepspeed: {}": "deepspeed: {fp16: {enabled: true}, bf16: {enabled: true}}"},
        ("engine.deepspeed.fp16", "set by engine.precision"),
        "Snowflake-AI-Research/Arctic-Platform#78",
    ),
    Fault(
        "stage stated twice",
        {"deepspeed: {}": "deepspeed: {zero_optimization: {stage: 3}}"},
        ("engine.deepspeed.zero_optimization.stage", "set by engine.zero_stage"),
        "huggingface/accelerate#936",
    ),
    Fault(
        "a DeepSpeed key misspelt",
        {"deepspeed: {}": "deepspeed: {zero_optimization: {overlap_com: true}}"},
        ("engine.deepspeed.zero_optimization.overlap_com", "did you mean 'overlap_comm'"),
        "deepspeedai/DeepSpeed#1809, deepspeedai/DeepSpeed#774",
    ),
    Fault(
        "a DeepSpeed key in the wrong group",
        {"deepspeed: {}": "deepspeed: {offload_optimizer: {device: cpu}}"},
        ("engine.deepspeed.offload_optimizer", "zero_optimization"),
        "deepspeedai/DeepSpeed#1809",
    ),
    Fault(
        "a DeepSpeed number that YAML reads as text",
        {"deepspeed: {}": "deepspeed: {zero_optimization: {reduce_bucket_size: 5e8}}"},
        ("engine.deepspeed.zero_optimization.reduce_bucket_size", "5.0e+08"),
        "allenai/allennlp#1429, beetbox/confuse#91",
    ),
    Fault(
        "a value left to auto",
        {"deepspeed: {}": "deepspeed: {zero_optimization: {reduce_bucket_size: auto}}"},
        ("engine.deepspeed.zero_optimization.reduce_bucket_size", "auto"),
        "huggingface/transformers#16495, deepspeedai/DeepSpeed#1270",
    ),
    Fault(
        "fp16",
        {"zero_stage: 1": "zero_stage: 1\n  precision: fp16"},
        ("engine.precision", "'bfloat16'", "arithmetic of"),
        "tatsu-lab/stanford_alpaca#133, OptimalScale/LMFlow#88",
    ),
    # Models, tokenizers and objectives
    Fault(
        "heads do not divide the width",
        {"num_heads: 2": "num_heads: 3"},
        ("model.num_heads", "16 = 3 x 5 + 1", "use num_heads"),
        "huggingface/transformers#23081, rasbt/LLMs-from-scratch#444",
    ),
    Fault(
        "groups of keys do not divide the heads",
        {"num_heads: 2": "num_heads: 4\n  num_kv_heads: 3"},
        ("model.num_kv_heads", "3 key/value heads do not divide 4 heads", "use"),
        "NVIDIA/Megatron-LM#5755",
    ),
    Fault(
        "rows longer than the model has positions",
        {"seq_length: 32": "seq_length: 128"},
        ("data.seq_length", "128 tokens, and the model has 64 positions", "at most 64"),
        "huggingface/transformers#2446, huggingface/transformers#1791",
    ),
    Fault(
        "a causal objective on an encoder",
        {"type: mlm": "type: clm"},
        ("model", "objective clm on an encoder", "choose a decoder"),
        "huggingface/transformers#12079",
    ),
    Fault(
        "masks without a mask token",
        {"type: wordpiece": "type: bpe"},
        ("tokenizer.type", "needs [MASK]", "use wordpiece"),
        "huggingface/transformers#10218, google/sentencepiece#980",
    ),
    Fault(
        "span corruption without sentinels",
        {
            "type: mlm": "type: span_corruption",
            "causal: false": "causal: false\n  num_decoder_layers: 2",
        },
        ("tokenizer.sentinels", "span_corruption"),
        "google-research/text-to-text-transfer-transformer#166",
    ),
    Fault(
        "fewer embeddings than tokens",
        {
            "type: wordpiece\n  vocab_size: 600": "type: file\n  path: bert",
            "num_heads: 2": "num_heads: 2\n  vocab_size: 50",
        },
        ("model.vocab_size", "50 embeddings are too few", "leave the key out"),
        "huggingface/transformers#1848, huggingface/tokenizers#1609",
    ),
    Fault(
        "a tokenizer that is not there",
        {"type: wordpiece\n  vocab_size: 600": "type: file\n  path: tokenizer/vocab.txt"},
        ("tokenizer.path", "does not exist", "name a tokenizer.json"),
        "WuHuRestaurant/xf_event_extraction2020Top1#23, NJUNLP/GTS#3",
    ),
    # YAML
    Fault(
        "a key misspelt",
        {"hidden_size: 16": "hiden_size: 16"},
        ("model.hiden_size", "unknown key", "did you mean 'hidden_size'"),
        "deepspeedai/DeepSpeed#774",
    ),
    Fault(
        "a key twice",
        {"seq_length: 32": "seq_length: 32\n  seq_length: 64"},
        ("data.seq_length", "stands twice", "keep one"),
        "yaml/pyyaml#165, snowflakedb/ArcticTraining#85",
    ),
    Fault(
        "a tab in the indentation",
        {"  seq_length: 32": "\tseq_length: 32"},
        ("", "is not valid YAML", "indent with spaces"),
        "moraes/config#1, camlab-bioml/astir#3",
    ),
    Fault(
        "yes and no where words are meant",
        {"zero_stage: 1": "zero_stage: 1\n  activation_checkpointing: no"},
        ("engine.activation_checkpointing", "'none'", "quote the word"),
        "axolotl-ai-cloud/axolotl#1653, hiyouga/LlamaFactory#4446",
    ),
    # Folders and files
    Fault(
        "a corpus that is not there",
        {"paths: [corpus.txt]": "paths: ['corpus/*.txt']"},
        ("data.sources.0.paths.0", "matches no file", "looked for from"),
        "huggingface/datasets#6866, facebookresearch/BalancingGroups#2",
    ),
    Fault(
        "a corpus of the hub on an offline cluster",
        {"type: text\n      paths: [corpus.txt]": "type: hub\n      name: someone/corpus"},
        ("data.sources.0.name", "HF_HUB_OFFLINE", "cache"),
        "huggingface/datasets#6837, huggingface/datasets#1939",
        environment=OFFLINE,
    ),
    Fault(
        "a run folder that cannot be made",
        {"name: broken": "name: broken\nruns_folder: file-in-the-way"},
        ("runs_folder", "file-in-the-way", "folder"),
        "verl-project/verl#3354, nouhadziri/THRED#16",
    ),
    Fault(
        "a run's name with a slash",
        {"name: broken": "name: bert/base"},
        ("name", "cannot be a folder's name", "use letters"),
        "huggingface/transformers#32072, huggingface/lerobot#152",
    ),
    Fault(
        "a checkpoint every 0 steps",
        {"every_steps: 6": "every_steps: 0"},
        ("checkpoint.every_steps", "greater than 0", "only at the end"),
        "huggingface/transformers#12796",
    ),
    Fault(
        "a W&B key in the file",
        {"checkpoint:": "tracking:\n  - type: wandb\n    api_key: 0123456789abcdef\ncheckpoint:"},
        ("tracking.0.api_key", "a secret does not belong in a file", "WANDB_API_KEY"),
        "unslothai/unsloth#1914, OptimalScale/LMFlow#65",
    ),
    # Fine-tuning
    Fault(
        "a model folder that is not there",
        {"path: bert": "path: ./models/bert"},
        ("model.path", "does not exist", "runs/NAME/model"),
        "huggingface/trl#3604, databrickslabs/dolly#36",
        "finetune",
    ),
    Fault(
        "a model of the hub on an offline cluster",
        {"path: bert": "path: google-bert/bert-base-uncased"},
        ("model.path", "HF_HUB_OFFLINE", "cache"),
        "huggingface/huggingface_hub#4487, unslothai/unsloth#495",
        "finetune",
        environment=OFFLINE,
    ),
    Fault(
        "weights that are a Git LFS pointer",
        {"path: bert": "path: pointer"},
        ("model.path", "Git LFS", "git lfs pull"),
        "microsoft/OmniParser#34, codefuse-ai/MFTCoder#20",
        "finetune",
    ),
    Fault(
        "weights as pickles alone",
        {"path: bert": "path: pickled"},
        ("model.path", "pickles alone", "save_pretrained"),
        "huggingface/transformers#31649",
        "finetune",
    ),
    Fault(
        "a model folder without a tokenizer",
        {"path: bert": "path: bare"},
        ("model.path", "no tokenizer", "save"),
        "FreedomIntelligence/GrammarGPT#3, huggingface/datasets#5840",
        "finetune",
    ),
    Fault(
        "texts longer than the model has positions",
        {"max_length: 32": "max_length: 512"},
        ("task.max_length", "512 tokens, and the model has 48 positions", "set it to 48"),
        "huggingface/transformers#1791, alexandrainst/danlp#54",
        "finetune",
    ),
    Fault(
        "a field that the records do not have",
        {"text_field: text": "text_field: sentence"},
        ("data.train", "no field 'sentence'", "fields are text, label"),
        "simplescaling/s1#39, huggingface/autotrain-advanced#425",
        "finetune",
    ),
    Fault(
        "examples that are not there",
        {"train: train.jsonl": "train: data/train.jsonl"},
        ("data.train", "does not exist", "looked for from"),
        "FanqingM/MM-Eureka-V0#9",
        "finetune",
    ),
    Fault(
        "a metric that no evaluation has",
        {"keep: best": "keep: best\n  metric: eval_acc"},
        ("selection.metric", "no 'eval_acc'", "accuracy"),
        "huggingface/transformers#31450, hiyouga/LlamaFactory#7906",
        "finetune",
    ),
    Fault(
        "the best weights of no evaluation",
        {"  eval_every: 10\n": ""},
        ("train.eval_every", "selection", "set"),
        "huggingface/transformers#12685, zjunlp/DeepKE#394",
        "finetune",
    ),
    Fault(
        "steps and epochs at once",
        {"steps: 20": "steps: 20\n  epochs: 3"},
        ("train.steps", "told twice", "set one of"),
        "unslothai/unsloth#594, neulab/awesome-align#18",
        "finetune",
    ),
    Fault(
        "LoRA beside layers that the model does not have",
        {"type: full": "type: lora\n  target_modules: [q_proj, v_proj]"},
        ("method.target_modules", "q_proj", "query"),
        "huggingface/peft#1206, hiyouga/LlamaFactory#181",
        "finetune",
    ),
    Fault(
        "QLoRA at stage 3",
        {
            "type: full": "type: qlora",
            "type: accelerate": "type: deepspeed\n  zero_stage: 3",
        },
        ("engine.zero_stage", "4 bits", "stage 2 or less"),
        "axolotl-ai-cloud/axolotl#207, huggingface/transformers#24395",
        "finetune",
    ),
    Fault(
        "an encoder asked to summarize",
        {"type: classification\n  text_field: text\n  label_field: label": "type: summarization"},
        ("model.path", "encoder", "T5"),
        "huggingface/transformers#13590",
        "finetune",
    ),
    # Clusters
    Fault(
        "a partition that is not there",
        {"partition: gpu": "partition: gpus"},
        ("partition", "there is no partition 'gpus'", "did you mean 'gpu'"),
        "ArjunaCluster/ArjunaUsers#17, outerloop-science/outerloop#176",
        "slurm",
        environment=STAND_IN,
    ),
    Fault(
        "more GPUs than a node has",
        {"gpus_per_node: 4": "gpus_per_node: 8"},
        ("gpus_per_node", "nodes of partition gpu have at most 4", "ask for fewer"),
        "AaltoSciComp/scicomp-docs#26",
        "slurm",
        environment=STAND_IN,
    ),
    Fault(
        "GPUs of a partition that has none",
        {"partition: gpu": "partition: cpu"},
        ("gpus_per_node", "nodes of partition cpu have at most 0", "use another partition"),
        "nebius/soperator#1521, awslabs/awsome-distributed-ai#196",
        "slurm",
        environment=STAND_IN,
    ),
    Fault(
        "more cores than a node has",
        {"threads_per_process: 4": "threads_per_process: 14"},
        ("threads_per_process", "at most 32 cores", "ask for fewer"),
        "ArjunaCluster/ArjunaUsers#112",
        "slurm",
        environment=STAND_IN,
    ),
    Fault(
        "more processes than GPUs",
        {"gpus_per_node: 4": "gpus_per_node: 4\nprocesses_per_node: 8"},
        ("processes_per_node", "8 processes share 4 GPUs", "leave this key out"),
        "tatsu-lab/stanford_alpaca#67, hustvl/Vim#61",
        "slurm",
        environment=STAND_IN,
    ),
    Fault(
        "a W&B key in the launch config",
        {"NCCL_DEBUG: INFO": "WANDB_API_KEY: 0123456789abcdef"},
        ("env.WANDB_API_KEY", "does not belong in a file", "export WANDB_API_KEY"),
        "OptimalScale/LMFlow#65",
        "slurm",
        environment=STAND_IN,
    ),
    Fault(
        "a host twice",
        {"gpu2 slots=4": "gpu1 slots=4"},
        ("hosts.1", "gpu1 stands here again", "keep one line"),
        "deepspeedai/DeepSpeed#2626",
        "ssh",
    ),
    Fault(
        "a host's slots misspelt",
        {"gpu2 slots=4": "gpu2 lots=4"},
        ("hosts.1", "'lots=4' is not slots=N", "write NAME slots=N"),
        "deepspeedai/DeepSpeed#3669",
        "ssh",
    ),
    Fault(
        "a container image that is not there",
        {"image: lumbre:cpu": "image: lumbre:cuda"},
        ("image", "lumbre:cuda is not on this machine", "build it"),
        "mallorbc/Finetune_LLMs#22",
        "docker",
        environment=STAND_IN,
    ),
)
