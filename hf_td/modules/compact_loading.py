"""Loads compact models by plain `from_pretrained`.

Transformers lets the quantizer that a config names prepare the empty model before weights are
loaded. This one gives it the shapes of the compact model. Afterwards it removes every trace of
quantization: the result is an ordinary model.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from hf_td.modules.compact_saving import (
    LAYOUT_KEY,
    attach_layout,
    forget_file,
    layout_of_parts,
)
from hf_td.modules.compact_shapes import QUANT_METHODS, CompactLayout, apply_layout
from hf_td.modules.limits import check_counts, check_growth

METHOD = QUANT_METHODS[0]


class CompactConfig(QuantizationConfigMixin):
    """The layout of a compact model, where transformers expects a quantization config.

    Raises:
        ValueError: the layout is malformed; raised before a model is built.
    """

    def __init__(self, /, **values: Any) -> None:
        self.quant_method = METHOD  # pyright: ignore[reportAttributeAccessIssue]
        self.layout = CompactLayout.from_dict({"quant_method": METHOD, **values})

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form that config.json holds."""
        return self.layout.to_dict()


class CompactQuantizer(HfQuantizer):
    """A quantizer that gives an empty stock model the shapes of a compact checkpoint."""

    quantization_config: Any

    def update_attn_implementation(self, config: Any) -> Any:
        """Return the config, which no model is built from yet, once its counts are checked."""
        check_counts(config.to_dict(), "config.json")
        return config

    def _process_model_before_weight_loading(self, model: nn.Module, **kwargs: Any) -> nn.Module:
        self.layout = self._layout_for(model)
        self.check_routers()
        apply_layout(model, self.layout)
        check_growth(model, kwargs.get("checkpoint_files"))
        return model

    def _process_model_after_weight_loading(self, model: nn.Module, **kwargs: Any) -> nn.Module:
        make_ordinary(model, self.layout)
        return model

    def _layout_for(self, model: nn.Module) -> CompactLayout:
        """Return the layout of the model, which may be built from compact models."""
        layout = self.quantization_config.layout.for_model(model)
        names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        parts = None if names & layout.shapes.keys() else layout_of_parts(model)
        return layout if parts is None else parts

    def check_routers(self) -> None:
        """Raise ValueError for routers that leave out experts: only hf_td can make them."""
        if self.layout.routers:
            raise ValueError(
                "malformed compact layout: layout.routers should be empty where hf_td is not "
                f"imported, got {self.layout.routers!r}"
            )

    def is_serializable(self) -> bool:
        """Return True: compact models are saved as any other."""
        return True

    @property
    def is_trainable(self) -> bool:
        """True: compact models are trained as any other."""
        return True


class CompactModelConfig(PreTrainedConfig):
    """The entry of the modeling file in config.json. It loads the stock config."""

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load what `AutoConfig` loads without this file.

        Raises:
            ValueError: the config has no layout, a malformed one, or counts that are too large.
        """
        values, _ = PreTrainedConfig.get_config_dict(*args, **kwargs)
        check_counts(values, "config.json")
        CompactLayout.from_dict(values.get(LAYOUT_KEY))
        return AutoConfig.from_pretrained(*args, **{**kwargs, "trust_remote_code": False})


def make_ordinary(model: Any, layout: CompactLayout) -> None:
    """Remove the marks of a quantized model: `.half()`, `Trainer` and PEFT refuse them."""
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            module.config.__dict__.pop("_is_quantized", None)
    forget_file(model.config)
    del model.hf_quantizer
    del model.quantization_method
    model.is_quantized = False
    model.config.quantization_config = layout.to_dict()
    attach_layout(model, layout)


def register(quantizer: type[HfQuantizer]) -> None:
    """Make `from_pretrained` load compact models by this quantizer."""
    AUTO_QUANTIZATION_CONFIG_MAPPING.update(dict.fromkeys(QUANT_METHODS, CompactConfig))
    AUTO_QUANTIZER_MAPPING[METHOD] = quantizer


def register_where_missing() -> None:
    """Register the loader, unless hf_td or another copy of this file has done so."""
    for name in QUANT_METHODS:
        AUTO_QUANTIZATION_CONFIG_MAPPING.setdefault(name, CompactConfig)
    AUTO_QUANTIZER_MAPPING.setdefault(METHOD, CompactQuantizer)
