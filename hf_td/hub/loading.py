"""Registers the loader of compact models, which works once hf_td is imported."""

from __future__ import annotations

from typing import Any

from torch import nn

from hf_td.hub.downloads import check_downloads
from hf_td.modules.compact_layout import mark_routers
from hf_td.modules.compact_loading import CompactQuantizer, register


class CheckedQuantizer(CompactQuantizer):
    """A loader that checks what was downloaded, and marks routers that leave out experts."""

    def _process_model_before_weight_loading(self, model: nn.Module, **kwargs: Any) -> nn.Module:
        check_downloads(kwargs.get("checkpoint_files"))
        return super()._process_model_before_weight_loading(model, **kwargs)

    def _process_model_after_weight_loading(self, model: nn.Module, **kwargs: Any) -> nn.Module:
        mark_routers(model, self.layout)
        return super()._process_model_after_weight_loading(model, **kwargs)

    def check_routers(self) -> None:
        """Accept them: they are marked once they have weights."""


register(CheckedQuantizer)
