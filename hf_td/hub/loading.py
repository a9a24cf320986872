"""Makes plain `from_pretrained` load compact models once hf_td is imported.

Transformers lets the quantizer that a config names prepare the empty model before weights are
loaded. This one gives it the shapes of the compact model. Afterwards it removes every trace of
quantization: the result is an ordinary model.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from hf_td.hub.downloads import check_downloads
from hf_td.hub.modeling_file import drop_modeling_file
from hf_td.modules.compact_layout import mark_routers
from hf_td.modules.compact_shapes import QUANT_METHOD, CompactLayout, apply_layout


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
        """Return the JSON form that config.json holds."""
        return self.layout.to_dict()


@register_quantizer(QUANT_METHOD)
class CompactQuantizer(HfQuantizer):
    """A quantizer that gives an empty stock model the shapes of a compact checkpoint."""

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
        """Return True: compact models are saved as any other."""
        return True

    @property
    def is_trainable(self) -> bool:
        """True: compact models are trained as any other."""
        return True


def make_ordinary(model: Any, layout: CompactLayout) -> None:
    """Remove the marks of a quantized model: `.half()`, `Trainer` and PEFT refuse them."""
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            module.config.__dict__.pop("_is_quantized", None)
    drop_modeling_file(model.config)
    del model.hf_quantizer
    del model.quantization_method
    model.is_quantized = False
    model.config.quantization_config = layout.to_dict()
