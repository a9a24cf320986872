"""The settings of targeted dropout: a frozen dataclass, validated once, with a JSON form."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from inspect import getfullargspec
from typing import Any, Literal, NamedTuple, get_args

from hf_td.files import parse_json
from hf_td.recipes import RECIPES, recipe_choices
from hf_td.schedules import Schedule

# The key in a model's config under which the settings of its training are recorded.
CONFIG_KEY = "targeted_dropout"

Level = Literal["weight", "unit"]
PartLevel = Literal["weight", "unit", "none"]
ExpertsLevel = Literal["unit", "none"]
LayersLevel = Literal["unit", "none"]
Importance = Literal["magnitude", "activation", "random", "taylor", "movement", "learned", "reap"]
Draw = Literal["unit", "element"]
RankOver = Literal["row", "matrix", "model"]

# Importance that can rank while a model trains; any other is for pruning alone.
IN_TRAINING: tuple[Importance, ...] = ("magnitude", "activation", "random")

# Settings of earlier versions, which the configs of models may still record.
RETIRED = frozenset({"resting", "rescale"})

# The default of a setting whose value depends on the recipe and the level; see `RECIPES`.
FROM_RECIPE: Any = None


class Rates(NamedTuple):
    """The rates of one update.

    Attributes:
        targeting: gamma, the fraction of weights or units that are candidates.
        drop_rate: alpha, the probability that a candidate is dropped.
    """

    targeting: float
    drop_rate: float


class Neighbours(NamedTuple):
    """A pattern: the lowest of each group of neighbours along the fan-in are candidates.

    Attributes:
        lowest: number of candidates in each group.
        of: size of a group.
    """

    lowest: int
    of: int

    @property
    def share(self) -> float:
        """The fraction of the weights that are candidates."""
        return self.lowest / self.of


def parse_pattern(text: str | None) -> Neighbours | None:
    """Return the pattern that "N:M" stands for; None for None.

    Raises:
        ValueError: `text` is not of this form with 0 < N < M.

    >>> parse_pattern("2:4")
    Neighbours(lowest=2, of=4)
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d+):(\d+)", text) if isinstance(text, str) else None
    if found is None or not 0 < int(found[1]) < int(found[2]):
        raise ValueError(f"pattern is 'N:M' with 0 < N < M, such as '2:4', got {text!r}")
    return Neighbours(lowest=int(found[1]), of=int(found[2]))


@dataclass(frozen=True, kw_only=True)
class TargetedDropoutConfig:
    """Settings of targeted dropout: the targets, the rates, and their growth over the run.

    Rates, schedules, importance, `rank_over` and `fixed_sparsity` default to
    `hf_td.recipes.RECIPES[recipe].at(level)`.

    Attributes:
        level: `weight` ranks the weights inside each output unit; `unit` ranks heads and neurons.
        attention_level: another level for attention blocks; `none` leaves them dense.
        feed_forward_level: another level for feed-forward blocks; `none` leaves them dense.
        experts_level: `unit` ranks whole experts inside each mixture; `none` drops no whole expert.
            The neurons or weights of experts follow `feed_forward_level`.
        layers_level: `unit` ranks whole layers (attention and feed-forward together) inside each
            stack; `none` drops no whole layer.
        targeting: gamma, the final fraction of weights or units that are candidates, in [0, 1).
            It should be at least the sparsity that will be shipped.
        drop_rate: alpha, the final probability that a candidate is dropped in an update, in [0, 1].
        targeting_schedule: growth of the targeting: a `Schedule`, its JSON form, or a shape's name.
        drop_rate_schedule: growth of the drop rate, in the same forms.
        include: patterns (`fnmatch`) on the dotted names of the layers to patch. At the unit level
            they are matched with the name of a block's consumer (its last layer), or of a mixture's
            router.
        exclude: patterns of layers not to patch, even if `include` matches them.
        layers: indices of the layers to patch; None means all. Of whole layers, these alone can be
            candidates.
        importance: the kind of score. `magnitude` is the paper's. `activation` multiplies it by
            the root mean square of a weight's input or a unit's output, as the authors'
            `targeted_ard` and Wanda do; for a whole layer it is how much the layer changes what
            flows through it. `random` targets a fixed random set. For pruning alone:
            `taylor` estimates the change of the loss to first order, `movement` its growth,
            `learned` uses the scores that a baseline learned, and `reap` ranks whole experts by
            what they add to the tokens that are sent to them.
        draw: at the unit level, drop whole units (the paper's text) or single elements of a
            targeted unit's weights (the authors' code).
        seed: of the draws; a mask is a function of (seed, update, layer) and the weights.
        pattern: "N:M" makes the N lowest of each M neighbours along the fan-in candidates, at the
            weight level, so exactly these can be pruned ("2:4" for the sparse kernels of GPUs). The
            final targeting is N/M. The literature counts kept weights: its 1:4 is 3:4 here.
        rank_over: the single weights that are ranked together: those of each `row` (output unit),
            as in the paper, of each whole `matrix`, or of the `model`. Over the model scores are
            divided by the root mean square of their matrix.
        matrix_cap: the most of one matrix that a ranking over the model removes, in (0, 1].
        recipe: the row of `hf_td.recipes.RECIPES` with the defaults, such as `fine_tuning`, for
            hundreds of updates that learn a task.
        fixed_sparsity: the sparsity that will be shipped, in (0, 1). The run ends with a fixed
            phase: the model is pruned to it once, and from then on nothing is dropped and the
            zeros stay. None for no such phase, unless the recipe has one.
        fixed_from: progress at which the fixed phase begins, in (0, 1).
    """

    level: Level = "weight"
    attention_level: PartLevel | None = None
    feed_forward_level: PartLevel | None = None
    experts_level: ExpertsLevel = "none"
    layers_level: LayersLevel = "none"
    targeting: float = FROM_RECIPE
    drop_rate: float = FROM_RECIPE
    targeting_schedule: Schedule = FROM_RECIPE
    drop_rate_schedule: Schedule = FROM_RECIPE
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    layers: tuple[int, ...] | None = None
    importance: Importance = FROM_RECIPE
    draw: Draw = "unit"
    seed: int = 0
    pattern: str | None = None
    rank_over: RankOver = FROM_RECIPE
    matrix_cap: float = 0.98
    recipe: str = "fine_tuning"
    fixed_sparsity: float | None = None
    fixed_from: float = 2 / 3

    def __post_init__(self) -> None:
        _check_choice("level", self.level, get_args(Level))
        _check_choice("recipe", self.recipe, tuple(recipe_choices()))
        neighbours = parse_pattern(self.pattern)
        self._fill_in(neighbours)
        self._normalise()
        _check_choice("attention_level", self.attention_level, (*get_args(PartLevel), None))
        _check_choice("feed_forward_level", self.feed_forward_level, (*get_args(PartLevel), None))
        _check_choice("experts_level", self.experts_level, get_args(ExpertsLevel))
        _check_choice("layers_level", self.layers_level, get_args(LayersLevel))
        _check_choice("importance", self.importance, get_args(Importance))
        _check_choice("draw", self.draw, get_args(Draw))
        _check_choice("rank_over", self.rank_over, get_args(RankOver))
        check_type("matrix_cap", self.matrix_cap, "a fraction in (0, 1]", int, float)
        if not 0 < self.matrix_cap <= 1:
            raise ValueError(f"matrix_cap is a fraction in (0, 1], got {self.matrix_cap}")
        check_type("seed", self.seed, "an integer", int)
        _check_rate("targeting", self.targeting, "a fraction in [0, 1)", below_one=True)
        _check_rate("drop_rate", self.drop_rate, "a probability in [0, 1]")
        if self.experts_level == "unit" and self.draw != "unit":
            raise ValueError(
                f"experts_level='unit' needs draw='unit', got draw={self.draw!r}. A router drops "
                "whole experts. Use draw='unit', or experts_level='none'"
            )
        if self.layers_level == "unit" and self.draw != "unit":
            raise ValueError(
                f"layers_level='unit' needs draw='unit', got draw={self.draw!r}. A layer is passed "
                "by as a whole. Use draw='unit', or layers_level='none'"
            )
        self._check_fixed()
        if self.rank_over != "row" and not self._ranks_weights():
            raise ValueError(
                f"rank_over={self.rank_over!r} ranks single weights, but neither attention nor "
                "feed-forward blocks have the level 'weight'. Use level='weight', or leave it out"
            )
        if neighbours is not None:
            self._check_pattern(neighbours)

    def _fill_in(self, neighbours: Neighbours | None) -> None:
        values = dict(RECIPES[self.recipe].at(self.level))
        if neighbours is not None:
            values["targeting"] = neighbours.share
            values["fixed_sparsity"] = values["fixed_sparsity"] and neighbours.share
        for name, value in values.items():
            if getattr(self, name) is FROM_RECIPE:
                object.__setattr__(self, name, value)

    def _normalise(self) -> None:
        for name in ("targeting_schedule", "drop_rate_schedule"):
            object.__setattr__(self, name, Schedule.parse(getattr(self, name)))
        patterns = "a sequence of patterns such as ['*.attention.*']"
        for name in ("include", "exclude"):
            object.__setattr__(self, name, _as_tuple(name, getattr(self, name), patterns, str))
        if self.layers is not None:
            indices = "a sequence of indices such as [0, 1]"
            object.__setattr__(self, "layers", _as_tuple("layers", self.layers, indices, int))

    def _ranks_weights(self) -> bool:
        return "weight" in (self.level_of("attention"), self.level_of("feed_forward"))

    def _check_fixed(self) -> None:
        _check_inside("fixed_from", self.fixed_from, "a progress in (0, 1)")
        if self.fixed_sparsity is None:
            return
        _check_inside("fixed_sparsity", self.fixed_sparsity, "a fraction in (0, 1), or None")
        if self.experts_level == "unit":
            raise ValueError(
                "fixed_sparsity prunes while the model trains, and no checkpoint can say which "
                "experts are removed. Use experts_level='none', or prune experts after the training"
            )

    def _check_pattern(self, neighbours: Neighbours) -> None:
        if not self._ranks_weights():
            raise ValueError(
                f"the pattern {self.pattern} ranks neighbouring weights, but neither attention nor "
                "feed-forward blocks have the level 'weight'. Use level='weight', or pattern=None"
            )
        if self.targeting != neighbours.share:
            raise ValueError(
                f"the pattern {self.pattern} makes {neighbours.share:g} of the weights candidates, "
                f"but targeting is {self.targeting}. Give only one of them"
            )
        if self.fixed_sparsity is not None and self.fixed_sparsity > neighbours.share:
            raise ValueError(
                f"the pattern {self.pattern} removes {neighbours.share:g} of the weights at most, "
                f"but fixed_sparsity is {self.fixed_sparsity}. Use {neighbours.share:g} or less"
            )

    @property
    def neighbours(self) -> Neighbours | None:
        """The pattern as numbers, or None."""
        return parse_pattern(self.pattern)

    def level_of(self, part: str) -> PartLevel:
        """Return the level of a part: `attention`, `feed_forward`, `experts` or `layers`."""
        return getattr(self, f"{part}_level") or self.level

    def selects(self, name: str, layer: int | None) -> bool:
        """Return True if the projection of this dotted name, in this layer, is to be patched."""
        if self.layers is not None and layer not in self.layers:
            return False
        return matches(name, self.include) and not matches(name, self.exclude)

    def rates(self, progress: float, update: int | None = None) -> Rates:
        """Return the rates of an update.

        Args:
            progress: completed updates over all updates, in [0, 1].
            update: the number of the update. Sampled rates are functions of the seed and this
                number, or of the progress if it is None. The two rates are drawn independently.
        """
        draw = None if update is None else (self.seed, update)
        return Rates(
            targeting=self.targeting * self.targeting_schedule(progress, draw),
            drop_rate=self.drop_rate * self.drop_rate_schedule(progress, draw, "drop_rate"),
        )

    def is_fixed(self, progress: float) -> bool:
        """Return True if an update at this progress, in [0, 1], is in the fixed phase."""
        return self.fixed_sparsity is not None and progress >= self.fixed_from

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, with tuples as lists."""
        return json.loads(json.dumps(asdict(self)))

    def to_json(self) -> str:
        """Return the JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TargetedDropoutConfig:
        """Return a configuration from its JSON form, ignoring retired settings.

        Raises:
            ValueError: a key is no setting of this or an earlier version, or a value cannot be.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"settings should be a mapping of their names, got {values!r}")
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known - RETIRED)
        if unknown:
            raise ValueError(f"unknown settings {unknown}; known are {sorted(known)}")
        try:
            return cls(**{name: value for name, value in values.items() if name in known})
        except TypeError as error:  # in a file, another type is another value
            raise ValueError(str(error)) from error

    @classmethod
    def from_json(cls, text: str) -> TargetedDropoutConfig:
        """Return a configuration from its JSON text.

        Raises:
            ValueError: the text is no JSON, or as for `from_dict`.
        """
        return cls.from_dict(parse_json(text))


def configure(
    config: TargetedDropoutConfig | None, overrides: Mapping[str, Any]
) -> TargetedDropoutConfig:
    """Return `config`, or the defaults, with some settings replaced.

    Another level or recipe replaces the old defaults by the new ones; settings that differ from the
    old defaults stay. Another pattern replaces the targeting.

    Raises:
        TypeError: `config` has another type, or an override is no setting.
    """
    if not (config is None or isinstance(config, TargetedDropoutConfig)):
        raise TypeError(
            "config is a TargetedDropoutConfig (training arguments have one: "
            "arguments.targeted_dropout()), and single settings are keywords, as in level='unit'; "
            f"got {config!r}"
        )
    check_known(overrides)
    if config is None:
        return TargetedDropoutConfig(**overrides)
    recipe = RECIPES[config.recipe].at(config.level)
    unset = {name for name, value in recipe.items() if getattr(config, name) == value}
    if overrides.get("pattern", config.pattern) != config.pattern:
        unset.add("targeting")
    return replace(config, **{**dict.fromkeys(unset, FROM_RECIPE), **overrides})


def check_known(
    given: Iterable[str], function: Callable[..., Any] | None = None, more: Iterable[str] = ()
) -> None:
    """Raise TypeError for keywords that are neither settings nor arguments of a function.

    Args:
        given: the keywords that a function takes as settings.
        function: its keyword-only arguments are known too.
        more: further known keywords.
    """
    arguments = [] if function is None else getfullargspec(function).kwonlyargs
    known = sorted({f.name for f in fields(TargetedDropoutConfig)} | {*arguments, *more})
    unknown = sorted(set(given) - set(known))
    near = [match for name in unknown for match in get_close_matches(name, known, n=2)]
    if unknown:
        hint = f". Did you mean {' or '.join(near)}?" if near else ""
        raise TypeError(f"unknown settings {unknown}; known are {known}{hint}")


def trained_with(model: Any) -> TargetedDropoutConfig | None:
    """Return the settings that a model's own config records, or None if it was never patched."""
    recorded = getattr(getattr(model, "config", None), CONFIG_KEY, None)
    return None if recorded is None else TargetedDropoutConfig.from_dict(recorded)


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Return True if a dotted name matches one of the patterns."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _as_tuple(name: str, value: Any, kind: str, of: type) -> tuple[Any, ...]:
    items = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else None
    if items is None or not all(_is_of(item, of) for item in items):
        raise TypeError(f"{name} is {kind}, got {value!r}")
    return items


def _check_rate(name: str, value: Any, kind: str, *, below_one: bool = False) -> None:
    check_type(name, value, kind, int, float)
    if not 0 <= value <= 1 or (below_one and value == 1):
        raise ValueError(f"{name} is {kind}, got {value}")


def _check_inside(name: str, value: Any, kind: str) -> None:
    check_type(name, value, kind, int, float)
    if not 0 < value < 1:
        raise ValueError(f"{name} is {kind}, got {value}")


def check_type(name: str, value: Any, kind: str, *types: type) -> None:
    """Raise TypeError unless a value is of one of these types; a bool is no int."""
    if not _is_of(value, *types):
        raise TypeError(f"{name} is {kind}, got {value!r}")


def _is_of(value: Any, *types: type) -> bool:
    """Return True if a value is of one of these types; a bool does not count as an int."""
    return isinstance(value, types) and (bool in types or not isinstance(value, bool))


def _check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {list(choices)}, got {value!r}")
