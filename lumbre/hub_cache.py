"""What the cache of the Hugging Face hub holds, asked without a network: what an offline cluster has."""

from collections.abc import Iterator
from pathlib import Path

from lumbre.errors import Problem


def model_problems(name: str, key: str) -> Iterator[Problem]:
    """Report a model of the hub that the cache lacks where HF_HUB_OFFLINE keeps the network out."""
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE:
        return
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        yield Problem(key, f"{name!r} is no name of the hub, and no folder", "name a folder with config.json")
        return
    if not isinstance(found, str):
        yield _absent(key, f"model {name}", Path(constants.HF_HUB_CACHE), f"hf download {name}")


def dataset_problems(name: str, key: str) -> Iterator[Problem]:
    """Report a data set of the hub that the caches lack where HF_HUB_OFFLINE keeps the network out."""
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE or Path(name).exists():
        return
    files = Path(constants.HF_HUB_CACHE) / f"datasets--{name.replace('/', '--')}"
    prepared = Path(constants.HF_HOME) / "datasets"
    # datasets writes OWNER___NAME, NAME in a spelling of its own.
    wanted = _plain(name.replace("/", "___"))
    tables = prepared.glob("*") if prepared.is_dir() else []
    if not files.is_dir() and all(_plain(one.name) != wanted for one in tables):
        fetch = f"hf download --repo-type dataset {name}"
        yield _absent(key, f"data set {name}", Path(constants.HF_HUB_CACHE), fetch)


def _absent(key: str, what: str, cache: Path, fetch: str) -> Problem:
    fault = f"HF_HUB_OFFLINE is set, and the cache {cache} has no {what}"
    return Problem(key, fault, f"run `{fetch}` where there is a network, or name files of your own")


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
