"""Let a decoder complete prompts, through plain transformers on its Hugging Face folder."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from lumbre.errors import ModelError
from lumbre.files import write_json

SAMPLES_FILE = "samples.json"


def complete(
    place: Path, prompts: Sequence[str], *, max_new_tokens: int, temperature: float, seed: int
) -> list[str]:
    """Print each prompt with its completion, and return the completions.

    `place` is a run folder, whose model/ is used and where the samples are kept for the report, or a
    Hugging Face folder. Temperature 0 takes the likeliest token each time. Raises ModelError when the
    folder holds no decoder.
    """
    run = place if (place / "model" / "config.json").is_file() else None
    folder = place / "model" if run else place
    if not (folder / "config.json").is_file():
        raise ModelError(f"{place}: is neither a finished run nor a model folder; it has no config.json")

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.mask_token is not None:
        raise ModelError(
            f"{folder}: is an encoder, which completes nothing; name a decoder such as a gpt run"
        )
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True).eval()
    except ValueError as error:
        known = ", ".join(sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) & {"gpt2", "llama"}))
        raise ModelError(f"{folder}: its kind of model cannot generate yet; these can: {known}") from error
    torch.manual_seed(seed)
    texts = []
    console = Console(highlight=False)
    for prompt in prompts:
        # Documents begin without a mark of their own, so the prompt is encoded as it stands.
        ids_BT = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
        out_BT = model.generate(
            ids_BT,
            attention_mask=torch.ones_like(ids_BT),
            max_new_tokens=max_new_tokens,
            do_sample=temperature > 0,
            **({"temperature": temperature} if temperature > 0 else {}),
            pad_token_id=tokenizer.pad_token_id,
        )
        text = tokenizer.decode(out_BT[0, ids_BT.shape[1] :], skip_special_tokens=True)
        texts.append(text)
        console.print(f"[bold]{escape(prompt)}[/]{escape(text)}\n", soft_wrap=True)
    if run is not None:
        samples = [{"prompt": one, "text": text} for one, text in zip(prompts, texts, strict=True)]
        write_json(run / SAMPLES_FILE, samples)
    return texts
