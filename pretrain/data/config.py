"""What a run is trained on: a corpus, and how its documents become rows."""

from pydantic import Field, PositiveInt

from .packing import ConcatenateConfig, PackingConfig
from .prepare import CorpusConfig


class DataConfig(CorpusConfig):
    """A corpus, and how its documents become rows."""

    seq_length: PositiveInt = 128
    """Tokens a row; chosen at run time, nothing is prepared anew for another."""
    packing: PackingConfig = Field(default_factory=ConcatenateConfig)
    """How documents become rows."""
