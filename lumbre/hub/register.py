"""Which class of ours each of transformers' Auto classes gives for model type `lumbre`."""


def register() -> None:
    """Tell AutoConfig of the model type, whose configs tell the other Auto classes; again does nothing."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from lumbre.hub.classes.config import LumbreConfig

    CONFIG_MAPPING.register(LumbreConfig.model_type, LumbreConfig, exist_ok=True)


def register_models() -> None:
    """Tell the Auto classes of the models; again does nothing."""
    import transformers

    from lumbre.hub.classes import classifiers, language_models
    from lumbre.hub.classes.base import LumbreModel
    from lumbre.hub.classes.config import LumbreConfig

    for auto, model in {
        transformers.AutoModel: LumbreModel,
        transformers.AutoModelForMaskedLM: language_models.LumbreForMaskedLM,
        transformers.AutoModelForCausalLM: language_models.LumbreForCausalLM,
        transformers.AutoModelForSeq2SeqLM: language_models.LumbreForSeq2SeqLM,
        transformers.AutoModelForSequenceClassification: classifiers.LumbreForSequenceClassification,
        transformers.AutoModelForTokenClassification: classifiers.LumbreForTokenClassification,
        transformers.AutoModelForQuestionAnswering: classifiers.LumbreForQuestionAnswering,
    }.items():
        auto.register(LumbreConfig, model, exist_ok=True)
