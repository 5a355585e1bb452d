"""How a fine-tuned model writes: beams, lengths, and what keeps it from repeating itself."""

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from lumbre.config import Config
from lumbre.errors import Problem


class GenerationConfig(Config):
    """How tokens are chosen; what is left out is greedy and without penalties, whatever the folder states."""

    beams: PositiveInt = 1
    """Texts that are followed at once, of which the likeliest is kept."""
    max_new_tokens: PositiveInt | None = None
    """Most tokens to write, the end included; left out, max_target_length."""
    min_new_tokens: NonNegativeInt = 0
    """Fewest tokens to write before the end."""
    length_penalty: float = 1.0
    """Beams are compared by log-probability / length^this: above 0 favours long texts."""
    early_stopping: bool | Literal["never"] = False
    """Whether beams end once there are enough whole texts; never: not before no better one can come."""
    no_repeat_ngram_size: NonNegativeInt = 0
    """No run of so many tokens comes twice; 0: any may. A decoder's prompt counts."""
    repetition_penalty: PositiveFloat = 1.0
    """Above 1, tokens that were there already become less likely (Keskar et al., 2019, arXiv:1909.05858)."""
    temperature: NonNegativeFloat = 0.0
    """Divides the logits before a token is drawn; 0 takes the likeliest each time."""
    top_k: NonNegativeInt = 50
    """Where tokens are drawn: among so many likeliest; 0 is all."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Where tokens are drawn: among the likeliest that together have this probability."""

    def problems(self) -> Iterator[Problem]:
        """Report lengths that contradict each other, and settings that nothing reads."""
        if self.max_new_tokens is not None and self.min_new_tokens > self.max_new_tokens:
            fault = f"{self.min_new_tokens}, and max_new_tokens is {self.max_new_tokens}"
            yield Problem("min_new_tokens", fault, "ask for no more than that")
        idle = {"length_penalty": self.beams == 1, "early_stopping": self.beams == 1}
        idle |= {"top_k": self.temperature == 0, "top_p": self.temperature == 0}
        for key, nothing in idle.items():
            if nothing and getattr(self, key) != type(self).model_fields[key].default:
                lack = "beams are 1" if key in ("length_penalty", "early_stopping") else "temperature is 0"
                yield Problem(key, f"{lack}, and nothing reads it", "leave it out, or set that higher")

    def arguments(self, most: int) -> dict[str, Any]:
        """Return them by transformers' names; `most` stands for max_new_tokens where it is left out."""
        drawn = {"temperature": self.temperature, "top_k": self.top_k, "top_p": self.top_p}
        return {
            "max_new_tokens": self.max_new_tokens or most,
            "min_new_tokens": self.min_new_tokens,
            "num_beams": self.beams,
            "length_penalty": self.length_penalty,
            "early_stopping": self.early_stopping,
            "no_repeat_ngram_size": self.no_repeat_ngram_size,
            "repetition_penalty": self.repetition_penalty,
            "do_sample": self.temperature > 0,
            **(drawn if self.temperature > 0 else {}),
        }
