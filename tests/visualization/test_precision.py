"""Pictures of precision over recall for few, many and no classes."""

import numpy as np
import pytest
from PIL import Image

from jaxvision.visualization.precision import SHOWN, plot_precision_recall, precision_recall_figure


def curves(classes):
    """The first class has no object, the last one is found best."""
    reached = np.linspace(0.2, 0.95, classes)[:, None]
    precision = np.where(np.linspace(0, 1, 101)[None] <= reached, 0.5 + 0.5 * reached, 0.0)
    precision[0] = np.nan
    return precision


def test_each_class_with_an_object_has_its_curve_best_first_and_their_mean(tmp_path):
    names = [f"class ${i}" for i in range(5)]
    figure = precision_recall_figure(curves(5), names)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert [text.split("  ")[1] for text in texts] == ["class $4", "class $3", "class $2", "class $1", "mean of 4"]
    mean = np.nanmean(curves(5)[1:])
    assert texts[-1].startswith(f"{mean:.3f}")
    plot_precision_recall(curves(5), names, tmp_path / "curves.png", "Boxes")
    with Image.open(tmp_path / "curves.png") as picture:
        assert 500 <= picture.width <= 1000 and 500 <= picture.height <= 800


def test_of_many_classes_the_weakest_are_named():
    figure = precision_recall_figure(curves(81), [])
    texts = [text.get_text().split("  ")[1] for text in figure.legends[0].get_texts()]
    assert set(texts) == {*map(str, range(1, SHOWN + 1)), "mean of 80"}
    assert len(figure.axes[0].lines) == 81


def test_without_any_object_there_is_a_picture_too_and_wrong_names_are_told():
    assert not precision_recall_figure(np.full((2, 101), np.nan), ["a", "b"]).legends
    with pytest.raises(ValueError, match=r"expected \[classes, recalls\]"):
        precision_recall_figure(curves(3), ["a", "b"])
