"""Names with dollars, backslashes and underscores stand in plots and reports as they are written."""

import numpy as np
import pytest
from matplotlib.text import Text

from common.reports.html import Section, figure, page, table
from common.reports.plots import plot_confusion, plot_lines

NAMES = ["US$ and A$", r"$\nothing{", "_hidden_", "$", r"a\$b", "<b>&amp;</b>"]


def shown(plot):
    """Texts of a drawn figure, as matplotlib lays them out."""
    figure(plot)
    texts = [text for text in plot.findobj(Text) if text.get_text()]
    parsed = [text._preprocess_math(text.get_text()) for text in texts]
    assert not any(is_math for _, is_math in parsed)
    return {text for text, _ in parsed}


def test_lines_are_named_in_the_legend():
    plot = plot_lines({name: [(0, 1.0, None, None), (1, 2.0, 1.5, 2.5)] for name in NAMES}, "$x$", "y in $")
    assert {name.strip() for name in shown(plot)} >= {*NAMES, "$x$", "y in $"}


def test_classes_of_a_confusion_matrix_are_named():
    assert shown(plot_confusion(np.eye(len(NAMES)), NAMES)) >= {
        name.replace("_", " ") for name in NAMES if "_" not in name
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_table_of_a_page_holds_the_name(name):
    text = page("Title", [Section(name, [table([{"class": name, name: 1}])])])
    assert text.count(name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")) == 4
