"""Prunes a model until it is as fast, or as small, or as good as wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from torch import nn

from hf_td.anatomy import Anatomy
from hf_td.config import TargetedDropoutConfig, check_known, check_type
from hf_td.hub.forms import AUTO, check_form, load_form
from hf_td.pruning import Budget, as_budget, kept_weights, select_sites
from hf_td.pruning.budgets import Currency
from hf_td.pruning.compensation import Compensation, as_compensation
from hf_td.pruning.prune import prune_sites, remove_wanted
from hf_td.pruning.times import Times
from hf_td.ranking.sites import Site
from hf_td.wishes.measures import Measures, Shape, Writing
from hf_td.wishes.report import Wish, WishReport
from hf_td.wishes.search import largest_sparsity, least_sparsity


def prune_to(
    model: nn.Module,
    config: TargetedDropoutConfig | None = None,
    *,
    speedup: float | None = None,
    max_bytes: int | None = None,
    max_loss: float | None = None,
    evaluate: Callable[[Any], float] | None = None,
    lower_is_better: bool = False,
    batch: int = 1,
    length: int = 128,
    threads: int | None = None,
    budget: Literal["uniform", "global"] | Budget = "uniform",
    of: Currency | None = None,
    times: Times | None = None,
    form: str = AUTO,
    keep_heads_stock: bool = False,
    multiple_of: int = 8,
    processing_class: Any = None,
    modules_from: str | Path | None = None,
    calibration: Iterable[Mapping[str, Any]] | None = None,
    compensate: bool | Compensation = False,
    anatomy: Anatomy | None = None,
    example_inputs: Mapping[str, Any] | None = None,
    **overrides: Any,
) -> WishReport:
    """Prune a model in place to a speed, a size, or a loss.

    The sparsity is searched by measurements of models that are pruned and cut, without training.
    Afterwards the result is measured anew. A speedup and a size imply heads and neurons, since
    zeros among single weights make nothing faster or smaller. With both wishes the larger sparsity
    counts. The steps are timed for a few forwards each: other work on the machine disturbs them.

    Args:
        model: a `PreTrainedModel` that can be exported, on the device and in the dtype that count.
        config: as for `prune_model`.
        speedup: how many times as fast a forward should be on this machine, above 1.
        max_bytes: the most bytes that all exported files together should take.
        max_loss: the fraction of the whole model's metric that may be lost, in [0, 1). Alone, it
            stands for the largest sparsity that loses no more.
        evaluate: takes the model and returns its metric, for `max_loss`.
        lower_is_better: True for a metric such as a loss or a perplexity.
        batch: number of rows of the inputs that are timed.
        length: number of tokens of each row.
        threads: of torch, while it is timed; None leaves their number.
        budget: as for `prune_model`.
        of: as for `prune_model`.
        times: as for `prune_model`.
        form: in which the model will be exported, as for `export_model`.
        keep_heads_stock: as for `export_model`.
        multiple_of: as for `export_model`.
        processing_class: that will be exported too, and counts in `max_bytes`.
        modules_from: as for `export_model`.
        calibration: as for `prune_model`.
        compensate: as for `prune_model`.
        anatomy: what `read_anatomy(model)` returned; None reads the model.
        example_inputs: keyword arguments of one forward, which is timed in place of `batch` and
            `length`.
        **overrides: settings that replace those of `config`, or `activations` and `scores` as for
            `prune_model`.

    Returns:
        The sparsity that was found, each wish with what was got, and what is removed.

    Raises:
        TypeError: a wish is no number, a keyword is unknown, or `evaluate` returns no number.
        ValueError: a wish is out of range, or cannot be met: the message says the nearest that can
            be, and the model is as before. Or as for `prune_model` and `export_model`.
    """
    check_known(overrides, prune_to, ("activations", "scores"))
    _check(speedup, max_bytes, max_loss, evaluate)
    check_form(form, model, keep_heads_stock=keep_heads_stock)
    if config is None and (speedup or (max_bytes and not _compresses(form))):
        overrides = {"level": "unit", **overrides}
    kind = as_compensation(compensate)
    batches = None if calibration is None else list(calibration)
    anatomy, sites = select_sites(
        model,
        config,
        calibration=batches,
        compensates=kind is not None,
        anatomy=anatomy,
        example_inputs=example_inputs,
        **overrides,
    )
    _check_level(sites, speedup, max_bytes, form)
    spending = as_budget(budget, of, times)
    measures = Measures(
        model,
        anatomy,
        example_inputs,
        shape=Shape(batch=batch, length=length, threads=threads),
        writing=Writing(
            form=form,
            keep_heads_stock=keep_heads_stock,
            multiple_of=multiple_of,
            processing_class=processing_class,
            modules_from=modules_from,
        ),
        evaluate=evaluate,
        lower_is_better=lower_is_better,
    )

    def groups(sparsity: float) -> list[tuple[tuple[Site, ...], float]]:
        return [(sites, min([sparsity, *(site.most for site in sites)]))]

    with kept_weights(sites) as restore:

        def masked(sparsity: float) -> None:
            restore()
            remove_wanted(model, anatomy, groups(sparsity), spending)

        def finished(sparsity: float) -> None:
            restore()
            remove_wanted(model, anatomy, groups(sparsity), spending, kind, batches)

        def removes(sparsity: float) -> bool:
            restore()
            return any(bool(mask.any()) for mask in spending.choose(sites, sparsity))

        search = _Search(measures, masked, finished, removes)
        sparsity = search.sparsity_for(speedup, max_bytes, max_loss)
    report = prune_sites(model, anatomy, groups(sparsity), spending, kind, batches)
    return WishReport(
        sparsity=sparsity,
        wishes=tuple(_granted(measures, speedup, max_bytes, max_loss)),
        pruning=report,
    )


def _check(
    speedup: float | None,
    max_bytes: int | None,
    max_loss: float | None,
    evaluate: Callable[[Any], float] | None,
) -> None:
    """Raise TypeError or ValueError for wishes that are none."""
    wishes = {
        "speedup": (speedup, "how many times as fast, a number above 1"),
        "max_bytes": (max_bytes, "a positive number of bytes, such as 25_000_000"),
        "max_loss": (max_loss, "the fraction of the metric to lose, in [0, 1)"),
    }
    for name, (wish, kind) in wishes.items():
        if wish is not None:
            check_type(name, wish, kind, int, float)
    if speedup is None and max_bytes is None and max_loss is None:
        raise ValueError("there is no wish. Pass speedup=2, max_bytes=25_000_000 or max_loss=0.01")
    if speedup is not None and speedup <= 1:
        raise ValueError(f"speedup is how many times as fast, above 1; got {speedup}")
    if max_bytes is not None and max_bytes <= 0:
        raise ValueError(f"max_bytes is a positive number of bytes, got {max_bytes}")
    if max_loss is not None and not 0 <= max_loss < 1:
        raise ValueError(
            f"max_loss is the fraction of the metric to lose, in [0, 1); got {max_loss}"
        )
    if (max_loss is None) != (evaluate is None):
        raise ValueError(
            "max_loss needs a metric, and nothing else does. Pass both: max_loss=0.01, "
            "evaluate=a function of the model"
        )


def _compresses(form: str) -> bool:
    return form != AUTO and load_form(form).compresses


def _check_level(
    sites: tuple[Site, ...], speedup: float | None, max_bytes: int | None, form: str
) -> None:
    """Raise ValueError for wishes that single weights cannot grant."""
    if any(site.kind != "weight" for site in sites):
        return
    cure = "Use level='unit' (heads and neurons), which are taken out"
    if speedup is not None:
        raise ValueError(
            "zeros among single weights make no forward faster, so level='weight' has no speedup. "
            f"{cure}"
        )
    if max_bytes is not None and not _compresses(form):
        raise ValueError(
            "zeros among single weights take as many bytes as other weights: level='weight' makes "
            f"no file smaller in this form. {cure}, or form='archive', which compresses zeros"
        )


class _Search:
    """The search for one sparsity that grants all wishes.

    Args:
        measures: of the model.
        masked: prunes to a sparsity, for what does not depend on the values of weights.
        finished: prunes to a sparsity as in the end.
        removes: returns True if a sparsity removes anything.
    """

    def __init__(
        self,
        measures: Measures,
        masked: Callable[[float], None],
        finished: Callable[[float], None],
        removes: Callable[[float], bool],
    ) -> None:
        self.measures, self.masked, self.finished = measures, masked, finished
        self.removes = removes

    def sparsity_for(
        self, speedup: float | None, max_bytes: int | None, max_loss: float | None
    ) -> float:
        """Return the sparsity, or raise ValueError for a wish that cannot be met."""
        if max_loss is not None:
            _ = self.measures.whole_metric  # before anything is removed
        least = [0.0]
        if speedup is not None:
            least.append(self._for_speed(speedup))
        if max_bytes is not None:
            least.append(self._for_size(max_bytes))
        if max_loss is None:
            return max(least)
        if len(least) == 1:
            return self._for_loss(max_loss)
        lost = self._loss(max(least))
        if lost > max_loss:
            raise ValueError(self._conflict(speedup, max_bytes, max_loss, lost))
        return max(least)

    def _time(self, sparsity: float) -> float:
        self.masked(sparsity)
        return self.measures.time()

    def _bytes(self, sparsity: float) -> float:
        self.masked(sparsity)
        return self.measures.bytes()

    def _loss(self, sparsity: float) -> float:
        self.finished(sparsity)
        return self.measures.loss()

    def _for_speed(self, speedup: float) -> float:
        found, reached = least_sparsity(self._time, 1 / speedup, close=0.03)
        if not reached:
            most = 1 / found.value
            nearest = f"The nearest wish is speedup={int(100 * most) / 100:g}, or more of it"
            raise ValueError(
                f"speedup={speedup:g} cannot be met: with as few heads and neurons as can stay, a "
                f"forward is {most:.2f} times as fast. "
                f"{nearest if most > 1.01 else 'Nothing makes it faster here. There may be more'} "
                "at another batch or length"
            )
        return found.sparsity

    def _for_size(self, max_bytes: int) -> float:
        found, reached = least_sparsity(self._bytes, max_bytes)
        if not reached:
            raise ValueError(
                f"max_bytes={max_bytes} cannot be met: with as few heads and neurons as can stay, "
                f"the files take {found.value / 1e6:.2f} MB. The nearest wish is "
                f"max_bytes={int(found.value)}. A smaller vocabulary (trim_vocabulary, hf-td trim) "
                "or weights of 16 bits take more off"
            )
        return found.sparsity

    def _for_loss(self, max_loss: float) -> float:
        allowed, refused = largest_sparsity(self._loss, max_loss)
        if refused is not None and (allowed is None or not self.removes(allowed.sparsity)):
            raise ValueError(
                f"max_loss={max_loss:g} cannot be met: a sparsity of {refused.sparsity:.1%} loses "
                f"{refused.value:.2%} already. The nearest wish is max_loss={refused.value:.4f}"
            )
        return allowed.sparsity if allowed else 0.0

    def _conflict(
        self, speedup: float | None, max_bytes: int | None, max_loss: float, lost: float
    ) -> str:
        """Return the message for wishes that exclude each other, with the nearest that go."""
        allowed, _ = largest_sparsity(self._loss, max_loss)
        sparsity = allowed.sparsity if allowed else 0.0
        wanted, nearest = [], []
        if speedup is not None:
            wanted.append(f"speedup={speedup:g}")
            nearest.append(f"speedup={1 / self._time(sparsity):.2f}")
        if max_bytes is not None:
            wanted.append(f"max_bytes={max_bytes}")
            nearest.append(f"max_bytes={int(self._bytes(sparsity))}")
        return (
            f"{' and '.join(wanted)} cannot be met with max_loss={max_loss:g}: it loses "
            f"{lost:.2%}. The nearest wish within that loss is {' and '.join(nearest)}; or train "
            "for the sparsity, and prune then"
        )


def _granted(
    measures: Measures, speedup: float | None, max_bytes: int | None, max_loss: float | None
) -> Iterator[Wish]:
    """Measure the pruned model, and yield each wish with its result."""
    if speedup is not None:
        latency = measures.latency()
        shape = " x ".join(map(str, latency.shape))
        yield Wish(
            name="speedup",
            wanted=speedup,
            got=latency.speedup,
            how=f"{latency.dense.median:.2f} ms to {latency.compact.median:.2f} ms for {shape}, "
            f"{latency.dtype}, {latency.threads} threads, {latency.hardware}",
        )
    if max_bytes is not None:
        yield Wish(
            name="max_bytes", wanted=max_bytes, got=measures.bytes(), how="all exported files"
        )
    if max_loss is not None:
        whole = f"of a metric of {measures.whole_metric:.4g}"
        yield Wish(name="max_loss", wanted=max_loss, got=measures.loss(), how=whole)
