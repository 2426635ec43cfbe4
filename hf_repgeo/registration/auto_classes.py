"""Registers the sparse VAE with `AutoConfig` and `AutoModel`. Called by post-import hooks, not at import.

after_import("transformers.models.auto.configuration_auto", register_configs)
after_import("transformers.models.auto.modeling_auto", register_models)

Loading another model then imports only three configuration classes: the models' own code is imported when `AutoModel`
needs one of them.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

MODELS = {
    "SparseVAEConfig": ("modeling_sparse_vae", "SparseVAEForSentenceEmbedding"),
    "SparseVAEForBLMConfig": ("modeling_sparse_vae_blm", "SparseVAEForBLM"),
    "BLMBaselineConfig": ("modeling_blm_baseline", "BLMBaseline"),
}


def register_configs(configuration_auto: ModuleType) -> None:
    """Teach `AutoConfig` the model types `sparse_vae`, `sparse_vae_blm` and `blm_baseline`.

    Args:
        configuration_auto: the module `transformers.models.auto.configuration_auto`, just imported.
    """
    for config in _config_classes():
        configuration_auto.AutoConfig.register(config.model_type, config, exist_ok=True)


def register_models(modeling_auto: ModuleType) -> None:
    """Teach `AutoModel` the three models.

    Args:
        modeling_auto: the module `transformers.models.auto.modeling_auto`, just imported.
    """
    for config in _config_classes():
        modeling_auto.AutoModel.register(config, LazyModelClass(config, *MODELS[config.__name__]), exist_ok=True)


def _config_classes() -> list[Any]:
    from ..sparse_vae import configuration_sparse_vae

    return [getattr(configuration_sparse_vae, name) for name in MODELS]


class LazyModelClass:
    """A placeholder for a model class in the mapping of `AutoModel`, which imports the class when it is first used.

    Args:
        config_class: the model's, which `AutoModel` asks for when the model is registered.
        module: of `hf_repgeo.sparse_vae`.
        name: of the class.
    """

    def __init__(self, config_class: type, module: str, name: str):
        self.config_class, self.home = config_class, (module, name)

    def __getattr__(self, attribute: str) -> Any:
        if attribute in ("config_class", "home"):  # not there yet while being copied
            raise AttributeError(attribute)
        module, name = self.home
        return getattr(getattr(import_module(f"hf_repgeo.sparse_vae.{module}"), name), attribute)
