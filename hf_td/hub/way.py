"""A way to load an export, as the code that a model card shows and that a check runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Way:
    """The code that loads an export.

    Attributes:
        name: for messages and `Export.ways`.
        loader: the function or class that loads.
        package: what the loader is imported from.
        call: an expression that gives the model, in which `model_id` names its place.
        prelude: an import that goes before.
        without_hf_td: True where hf_td is not needed, and cannot be imported in the check.
    """

    name: str
    loader: str
    package: str = "transformers"
    call: str
    prelude: str = ""
    without_hf_td: bool = False

    def imports(self, *more: str) -> str:
        """Return the import statements, with more names from the same package."""
        names = ", ".join(sorted([self.loader, *more]))
        statement = f"from {self.package} import {names}"
        return f"{self.prelude}\n{statement}" if self.prelude else statement
