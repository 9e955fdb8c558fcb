"""Figure 3: where MEND breaks even with vanilla ICL, and what stands in the picture."""

from __future__ import annotations

import subprocess
import sys

import pytest
from matplotlib import pyplot

from mend.reporting.figures.efficiency import _write_values, break_even


@pytest.mark.parametrize(
    ("icl", "mend", "queries"),
    [
        ((80, 4), (90, 3), 10),  # 80 + 10 * 4 = 90 + 10 * 3
        ((80, 4), (90.5, 3), 11),
        ((80, 4), (20, 3), 1),
        ((80, 4), (90, 4), None),
        ((80, 4), (80, 4), 1),
        ((80, 3), (20, 4), None),  # cheaper at first, not from some number on
    ],
)
def test_break_even(icl: tuple, mend: tuple, queries: int | None) -> None:
    assert break_even(icl, mend) == queries
    if queries:
        assert mend[0] + queries * mend[1] <= icl[0] + queries * icl[1]
    if queries and queries > 1:
        assert mend[0] + (queries - 1) * mend[1] > icl[0] + (queries - 1) * icl[1]


def test_values_are_written_only_where_they_do_not_overlap() -> None:
    figure, (wide, narrow) = pyplot.subplots(1, 2)
    wide.bar(range(3), range(3))
    narrow.bar(range(300), range(300))
    figure.canvas.draw()
    _write_values(figure)
    assert [text.get_text() for text in wide.texts] == ["0", "1", "2"]
    assert list(narrow.texts) == []
    pyplot.close(figure)


def test_drawing_does_not_import_torch() -> None:
    code = "import sys, mend.reporting.figures.efficiency; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
