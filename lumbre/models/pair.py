"""A language model that also tells how two texts in a row belong together: BERT's pooler and classifier.

Devlin et al., 2018, arXiv:1810.04805, 3.1, task 2. Shapes: B batch, T time, D hidden, M targets.
"""

import torch
from torch import Tensor, nn

from lumbre.models.config import TransformerConfig
from lumbre.models.heads import LanguageModel, ModelOutput, targets
from lumbre.models.init import init_weights
from lumbre.models.transformer import Transformer


class PairHead(nn.Module):
    """What a row's first token comes to, through a linear map and tanh (the pooler), to two logits."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        D = config.hidden_size
        self.pooler = nn.Linear(D, D)
        self.classifier = nn.Linear(D, 2)
        init_weights(self, config.init, config.init_std)

    def forward(self, first_BD: Tensor) -> Tensor:
        """Return logits_B2: of the second text being what the first calls for, and of its not being that."""
        logits_B2: Tensor = self.classifier(self.pooler(first_BD).tanh())
        return logits_B2


class PairModel(LanguageModel):
    """A trunk with the language-model head and the pair head."""

    def __init__(self, trunk: Transformer) -> None:
        super().__init__(trunk)
        self.pair_head = PairHead(trunk.config)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        labels: Tensor | None = None,
        uniform: Tensor | None = None,
        **others: Tensor | None,
    ) -> ModelOutput:
        """Return a language model's output, and pair_logits."""
        if labels is None:
            output = super().forward(
                input_ids, attention_mask, position_ids, document_ids, None, None, **others
            )
            return output._replace(pair_logits=self.pair_head(output.last_hidden_state[:, 0]))
        B, T = input_ids.shape
        rows_M = targets(labels)
        firsts_B = torch.arange(0, B * T, T, device=rows_M.device)
        inputs = (input_ids, attention_mask, position_ids, document_ids)
        x, balance = self.trunk(*inputs, **others, rows_M=torch.cat([firsts_B, rows_M]))
        output = self.predict(x[B:], rows_M, labels, uniform)
        return output._replace(balance=balance, pair_logits=self.pair_head(x[:B]))
