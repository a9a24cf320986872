import subprocess
import sys
from typing import Any
from xml.etree import ElementTree

import pytest
from matplotlib.colors import to_hex

from hf_td.analysis import plots
from hf_td.analysis.plots import Panel, plot_curves, plot_panels

CURVES: dict[str, Any] = {
    "plain": [{0.0: 0.9, 0.5: 0.7}],
    "targeted": [{0.5: 0.8, 0.0: 0.9}, {0.0: 0.8, 0.5: 0.6, 0.9: 0.5}],
}


def _draw(curves, **options) -> Any:
    panel = Panel(heading="mrpc", curves=curves, metric="f1_score", **options)
    return plots._draw(panel).axes[0]


def _line(axes, name) -> Any:
    return next(line for line in axes.lines if str(line.get_label()).startswith(name))


def test_png_and_svg_are_written_into_new_folders(tmp_path):
    png, svg = plot_curves(CURVES, tmp_path / "new" / "curve.v1", metric="f1", title="mrpc")
    assert (png.name, svg.name) == ("curve.v1.png", "curve.v1.svg")
    assert png.read_bytes().startswith(b"\x89PNG")
    assert ElementTree.parse(svg).getroot().tag.endswith("svg")


def test_the_same_curves_give_the_same_files(tmp_path):
    first = plot_curves(CURVES, tmp_path / "a", metric="f1", title="mrpc")
    again = plot_curves(CURVES, tmp_path / "b", metric="f1", title="mrpc")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in again]


def test_a_line_shows_the_mean_of_the_seeds_against_sparsity_in_percent():
    axes = _draw(CURVES)
    targeted = _line(axes, "targeted")
    assert list(targeted.get_xdata()) == [0, 50, 90]
    assert list(targeted.get_ydata()) == pytest.approx([0.85, 0.7, 0.5])
    assert axes.get_ylabel() == "f1 score"
    assert "%" in axes.get_xlabel()


def test_only_several_seeds_have_a_band_and_it_spans_their_range():
    axes = _draw(CURVES)
    assert len(axes.collections) == 1
    corners = axes.collections[0].get_paths()[0].vertices
    at_half = {round(float(y), 6) for x, y in corners if x == 50}
    assert at_half == {0.6, 0.8}


def test_every_method_is_in_the_legend_with_its_own_colour_and_marker():
    axes = _draw({str(n): [{0.0: 1.0, 0.5: n / 10}] for n in range(5)})
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == list("01234")
    assert len({(to_hex(line.get_color()), line.get_marker()) for line in axes.lines}) == 5


def test_every_measured_sparsity_is_named_on_a_second_line_where_it_has_no_room():
    axes = _draw({"a": [{0.0: 1, 0.5: 1, 0.9: 1, 0.92: 1, 0.975: 1}]})
    assert list(axes.get_xticks()) == [0, 50, 90, 92, 97.5]
    names = [text.get_text() for text in axes.get_xticklabels()]
    assert names == ["0", "50", "90", "\n92", "97.5"]


def test_an_axis_on_which_lower_is_better_says_so_and_is_logarithmic():
    axes = _draw({"a": [{0.0: 3.0, 0.5: 4000.0}]}, lower_is_better=True)
    assert axes.get_ylabel() == "f1 score (lower is better)"
    assert axes.get_yscale() == "log"
    axes.figure.canvas.draw()
    labels = {text.get_text() for text in axes.get_yticklabels(which="both")}
    assert {"5", "10", "1000", "2000"} <= labels
    assert _draw(CURVES).get_yscale() == "linear"


@pytest.mark.parametrize(
    ("lowest", "highest", "labels"),
    [
        (1.83, 4.58, ["2", "3", "4"]),
        (3.3, 4.9, ["3.4", "3.6", "3.8", "4", "4.2", "4.4", "4.6", "4.8"]),
        (9, 12, ["9", "10"]),
        (8, 60, ["10", "20", "50"]),
        (20, 3e6, ["100", "1000", "10000", "100000", "1e+06"]),
    ],
)
def test_a_logarithmic_axis_has_as_many_numbers_as_have_room(lowest, highest, labels):
    axes = _draw({"a": [{0.0: lowest, 0.5: highest}]}, lower_is_better=True)
    axes.figure.canvas.draw()
    shown = {
        float(text.get_text()): text.get_text()
        for text in axes.get_yticklabels(which="both")
        if text.get_text() and axes.get_ylim()[0] <= text.get_position()[1] <= axes.get_ylim()[1]
    }
    assert [shown[value] for value in sorted(shown)] == labels


@pytest.mark.parametrize("curves", [{}, {"a": []}, {"a": [{}]}])
def test_nothing_to_plot_is_an_error(curves, tmp_path):
    with pytest.raises(ValueError, match="no points to plot"):
        plot_curves(curves, tmp_path / "curve", metric="f1", title="mrpc")


def test_plotting_leaves_no_global_figure_and_never_imports_pyplot(tmp_path):
    code = (
        "import sys; from hf_td.analysis.plots import plot_curves; "
        f"plot_curves({{'a': [{{0.0: 1.0}}]}}, {str(tmp_path / 'c')!r}, metric='m', title='t'); "
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


MANY = ["plain fine-tuning", "targeted dropout", *(f"rival {n}" for n in range(11))]


def test_many_methods_are_spread_over_plots_of_at_most_six_with_the_others_in_grey():
    curves = {name: [{0.0: 1.0, 0.5: n / 20}] for n, name in enumerate(MANY)}
    figure = plots._draw(Panel(heading="mrpc", curves=curves, metric="f1"))
    assert len(figure.axes) == 3
    seen: list[str] = []
    for part, axes in zip(figure.subfigs, figure.axes, strict=False):
        named = [text.get_text() for text in part.legends[0].get_texts()]
        assert named[:2] == MANY[:2]
        assert len(named) <= 6
        assert len(axes.lines) == len(MANY)
        grey = [line for line in axes.lines if to_hex(line.get_color()) == "#c4c4c4"]
        assert len(grey) == len(MANY) - len(named)
        seen += named[2:]
    assert seen == MANY[2:]
    assert len({axes.get_ylim() for axes in figure.axes}) == 1


def test_panels_name_six_methods_and_draw_the_others_in_grey():
    panel = Panel(heading="a", curves={n: [{0.0: 1.0, 0.5: 0.5}] for n in MANY}, metric="f1")
    figure = plots._draw_panels([[panel] * 4], "all")
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [*MANY[:6], "other methods"]
    places: list[Any] = [axes.get_subplotspec() for axes in figure.axes]
    assert [place.num1 for place in places] == [0, 1, 2, 3]
    assert figure.get_figwidth() <= 8.4


def test_strips_show_every_value_from_lowest_to_highest_and_fill_the_marked_one(tmp_path):
    panels = {"75%": {"a": [0.5, 0.9, 0.6], "b": [0.7]}, "90%": {"b": [0.4]}}
    figure: Any = plots._draw_strips(panels, "f1", "title", {"75%": {"a": 0.6}})
    left, right = figure.axes
    assert [text.get_text() for text in left.get_yticklabels()] == ["a", "b"]
    span, median, dots, marked = left.lines[:4]
    assert list(span.get_xdata()) == [0.5, 0.9]
    assert list(median.get_xdata()) == [0.6]
    assert list(dots.get_xdata()) == [0.5, 0.9, 0.6]
    assert list(marked.get_xdata()) == [0.6]
    assert (dots.get_markerfacecolor(), marked.get_markerfacecolor()) == ("none", "#0072B2")
    assert {tuple(line.get_ydata()) for line in right.lines} == {(1, 1), (1,)}
    png, svg = plots.plot_strips(panels, tmp_path / "s", metric="f1", title="t")
    assert png.is_file()
    assert svg.is_file()
    with pytest.raises(ValueError, match="no values to plot"):
        plots.plot_strips({"75%": {"a": []}}, tmp_path / "s", metric="f1", title="t")


def test_panels_stand_in_rows_and_a_method_looks_the_same_in_all(tmp_path):
    few = {"targeted": CURVES["targeted"]}
    panels = [
        [Panel(heading=f"{task}, {level}", curves=curves, metric="f1") for task in ("a", "b")]
        for level, curves in (("weight", CURVES), ("unit", few))
    ]
    figure: Any = plots._draw_panels(panels, "all")
    headings = [axes.get_title() for axes in figure.axes]
    assert headings == ["a, weight", "b, weight", "a, unit", "b, unit"]
    assert len({_line(axes, "targeted").get_color() for axes in figure.axes}) == 1
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["plain", "targeted"]
    assert all(path.stat().st_size for path in plot_panels(panels, tmp_path / "p", title="all"))
    with pytest.raises(ValueError, match="no points to plot"):
        plot_panels([[Panel(heading="a", curves={}, metric="f1")]], tmp_path / "q", title="none")
