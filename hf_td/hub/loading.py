"""Lets plain `from_pretrained` load compact models once hf_td is imported.

Transformers asks the quantizer that a config names to prepare the empty model before weights are
loaded. Ours gives it the shapes of the compact model, and then takes every trace of quantization
off, so that what results is an ordinary model.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from hf_td.hub.integrity import check_downloads
from hf_td.hub.remote_code import MODULE
from hf_td.modules.compact_layout import QUANT_METHOD, CompactLayout, apply_layout, mark_routers


@register_quantization_config(QUANT_METHOD)
class CompactConfig(QuantizationConfigMixin):
    """The layout of a compact model, where transformers expects a quantization config.

    Raises:
        ValueError: the layout is malformed; raised before a model is built.
    """

    def __init__(self, **values: Any) -> None:
        self.quant_method = QUANT_METHOD  # pyright: ignore[reportAttributeAccessIssue]
        self.layout = CompactLayout.from_dict({"quant_method": QUANT_METHOD, **values})

    def to_dict(self) -> dict[str, Any]:
        """What config.json holds."""
        return self.layout.to_dict()


@register_quantizer(QUANT_METHOD)
class CompactQuantizer(HfQuantizer):
    """Gives an empty stock model the shapes of a compact checkpoint."""

    quantization_config: Any

    def _process_model_before_weight_loading(self, model: nn.Module, **kwargs: Any) -> nn.Module:
        check_downloads(kwargs.get("checkpoint_files"))
        apply_layout(model, self.quantization_config.layout.for_model(model))
        return model

    def _process_model_after_weight_loading(self, model: nn.Module, **kwargs: Any) -> nn.Module:
        layout = self.quantization_config.layout.for_model(model)
        mark_routers(model, layout)
        make_ordinary(model, layout)
        return model

    def is_serializable(self) -> bool:
        """Compact models are saved as any other."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Compact models are trained as any other."""
        return True


def make_ordinary(model: Any, layout: CompactLayout) -> None:
    """Take the marks of a quantized model off: `.half()`, `Trainer` and PEFT refuse those."""
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            module.config.__dict__.pop("_is_quantized", None)
    _drop_auto_map(model.config)
    del model.hf_quantizer
    del model.quantization_method
    model.is_quantized = False
    model.config.quantization_config = layout.to_dict()


def _drop_auto_map(config: Any) -> None:
    """Forget our modeling file: `save_pretrained` of a stock class does not take it along."""
    named = getattr(config, "auto_map", None) or {}
    if any(str(place).startswith(f"{MODULE}.") for place in named.values()):
        del config.auto_map
