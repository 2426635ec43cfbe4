"""What makes `AutoConfig` and `AutoModel` know the sparse VAE. Called by post-import hooks, not at import.

after_import("transformers.models.auto.configuration_auto", register_configs)
after_import("transformers.models.auto.modeling_auto", register_models)
"""

from __future__ import annotations

from types import ModuleType


def register_configs(configuration_auto: ModuleType) -> None:
    """Teach `AutoConfig` the model types `sparse_vae`, `sparse_vae_blm` and `blm_baseline`.

    Args:
        configuration_auto: the module `transformers.models.auto.configuration_auto`, just imported.
    """
    from ..sparse_vae.configuration_sparse_vae import BLMBaselineConfig, SparseVAEConfig, SparseVAEForBLMConfig

    for config in (SparseVAEConfig, SparseVAEForBLMConfig, BLMBaselineConfig):
        configuration_auto.AutoConfig.register(config.model_type, config, exist_ok=True)


def register_models(modeling_auto: ModuleType) -> None:
    """Teach `AutoModel` the three models.

    Args:
        modeling_auto: the module `transformers.models.auto.modeling_auto`, just imported.
    """
    from ..sparse_vae.modeling_blm_baseline import BLMBaseline
    from ..sparse_vae.modeling_sparse_vae import SparseVAEForBLM, SparseVAEForSentenceEmbedding

    for model in (SparseVAEForSentenceEmbedding, SparseVAEForBLM, BLMBaseline):
        modeling_auto.AutoModel.register(model.config_class, model, exist_ok=True)
