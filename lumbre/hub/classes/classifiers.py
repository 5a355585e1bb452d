"""New heads on our trunks as transformers' classes: for a whole text, for each token, for a span.

Where there are two stacks the decoder reads the text again behind the start token, as BART's classifiers
(Lewis et al., 2019, arXiv:1910.13461, 3.1). Shapes: B batch, T time, D hidden, L labels.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import (
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.utils import can_return_tuple

from lumbre.hub.classes.base import LumbrePreTrainedModel
from lumbre.hub.classes.config import LumbreConfig


class LumbreClassifier(LumbrePreTrainedModel):
    """A trunk with one new linear map."""

    _keys_to_ignore_on_load_unexpected = (r"^head\.",)
    accepts_loss_kwargs = False

    def __init__(self, config: LumbreConfig, outputs: int) -> None:
        super().__init__(config)
        self.classifier = nn.Linear(config.hidden_size, outputs)
        self.post_init()

    def read(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        token_type_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        **others: Any,
    ) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        """Return the last hidden states [B, T, D], and all of them where that is asked for."""
        if not self.config.is_encoder_decoder:
            output = self.run(
                input_ids,
                attention_mask,
                position_ids,
                token_type_ids,
                inputs_embeds,
                use_cache=False,
                **others,
            )
            return output.last_hidden_state, output.hidden_states
        if input_ids is None:
            raise ValueError("the decoder reads the text's tokens again: give input_ids")
        both = self.run_both(
            input_ids,
            attention_mask,
            self.shifted(input_ids),
            attention_mask,
            inputs_embeds=inputs_embeds,
            use_cache=False,
            **others,
        )
        return both.last_hidden_state, both.decoder_hidden_states


class LumbreForSequenceClassification(LumbreClassifier):
    """Reads a text's label, or its score, off one token: an encoder's first, a decoder's last."""

    def __init__(self, config: LumbreConfig) -> None:
        super().__init__(config, config.num_labels)

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        **others: Any,
    ) -> SequenceClassifierOutput:
        """Return logits [B, L]; the loss is the one of config.problem_type, as transformers guesses it."""
        x_BTD, states = self.read(
            input_ids, attention_mask, position_ids, token_type_ids, inputs_embeds, **others
        )
        logits_BL = self.classifier(self._pooled(x_BTD, input_ids, attention_mask))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits_BL, config=self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits_BL, hidden_states=states)

    def _pooled(self, x_BTD: Tensor, input_ids: Tensor | None, attention_mask: Tensor | None) -> Tensor:
        kept_BT = None if attention_mask is None else attention_mask != 0
        if kept_BT is None and input_ids is not None and self.config.pad_token_id is not None:
            kept_BT = input_ids != self.config.pad_token_id
        if kept_BT is None:
            kept_BT = x_BTD.new_ones(x_BTD.shape[:2], dtype=torch.bool)
        time_T = torch.arange(1, kept_BT.shape[1] + 1, device=x_BTD.device)
        if self.config.is_encoder_decoder or self.config.is_decoder:
            at_B = (kept_BT * time_T).argmax(dim=1)
        else:
            at_B = (kept_BT * time_T.flip(0)).argmax(dim=1)
        return x_BTD[torch.arange(len(x_BTD), device=x_BTD.device), at_B]


class LumbreForTokenClassification(LumbreClassifier):
    """Labels each token."""

    accepts_loss_kwargs = True

    def __init__(self, config: LumbreConfig) -> None:
        super().__init__(config, config.num_labels)

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        **others: Any,
    ) -> TokenClassifierOutput:
        """Return logits [B, T, L]; labels [B, T] are -100 where a token has none."""
        x_BTD, states = self.read(
            input_ids, attention_mask, position_ids, token_type_ids, inputs_embeds, **others
        )
        logits_BTL = self.classifier(x_BTD)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits_BTL, labels, self.config, **others)
        return TokenClassifierOutput(loss=loss, logits=logits_BTL, hidden_states=states)


class LumbreForQuestionAnswering(LumbreClassifier):
    """Finds where in a text an answer begins and ends."""

    def __init__(self, config: LumbreConfig) -> None:
        super().__init__(config, 2)

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        **others: Any,
    ) -> QuestionAnsweringModelOutput:
        """Return start_logits and end_logits [B, T]; positions [B] outside the text count for nothing."""
        x_BTD, states = self.read(
            input_ids, attention_mask, position_ids, token_type_ids, inputs_embeds, **others
        )
        start_BT, end_BT = self.classifier(x_BTD).unbind(dim=-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = self.loss_function(start_BT, end_BT, start_positions, end_positions)
        return QuestionAnsweringModelOutput(
            loss=loss, start_logits=start_BT, end_logits=end_BT, hidden_states=states
        )
