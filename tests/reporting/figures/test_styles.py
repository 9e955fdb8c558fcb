"""What pictures share: a method looks the same in all of them."""

from mend.configuration.display_names import PAPER_METHODS, method_display_name
from mend.reporting.figures import efficiency as efficiency_figure
from mend.reporting.figures.styles import COLOURS, line_styles

NAMES = list(map(method_display_name, PAPER_METHODS))


def test_a_method_looks_the_same_whatever_is_drawn_beside_it():
    styles = line_styles(["Mine", "MEND", "Mine", "Yours"])
    assert styles.keys() == {*NAMES, "Mine", "Yours"}
    others = line_styles(["Yours"])
    assert all(others[name] == styles[name] for name in NAMES)
    for key in ("color", "marker", "linestyle"):
        looks = [str(styles[name][key]) for name in (*NAMES, "Mine")]
        assert len(set(looks)) == len(looks)


def test_figure_3_has_the_colours_of_the_other_figures():
    styles = line_styles([])
    for name in efficiency_figure.METHODS:
        assert efficiency_figure.COLOURS[name] == styles[method_display_name(name)]["color"]
        assert efficiency_figure.MARKERS[name] == styles[method_display_name(name)]["marker"]


def test_many_runs_are_told_apart():
    styles = line_styles([f"run {n}" for n in range(20)])
    assert len({(style["color"], style["marker"]) for style in styles.values()}) == len(styles)


def test_all_colours_are_dark_enough_on_white():
    def contrast(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 1.05 / (0.05 + 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])

    assert len(set(COLOURS)) == len(COLOURS)
    assert min(map(contrast, COLOURS)) > 2.5
