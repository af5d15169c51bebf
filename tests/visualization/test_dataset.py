"""Pictures of data sets: every class has its bars, every size its mark, and odd data draw too."""

import numpy as np
import pytest

from jaxvision.visualization import dataset
from jaxvision.visualization.canvas import render

NAMES = ("Käse", "a $b$", 'say "hi"')


def test_each_class_has_a_bar_of_each_part_with_its_number():
    counts = {"training": np.array([10, 0, 3]), "validation": np.array([4, 1, 12_345])}
    figure = dataset.class_histogram(NAMES, counts, "images")
    (axes,) = figure.axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == list(NAMES)
    assert [text.get_text() for text in axes.texts] == ["10", "0", "3", "4", "1", "12k"]
    assert axes.get_title(loc="left") == "images per class" and "logarithmic" in axes.get_xlabel()
    assert render(figure).std() > 5


def test_of_many_classes_the_most_and_the_least_frequent_are_shown():
    counts = np.arange(200)
    figure = dataset.class_histogram([f"class {i}" for i in range(200)], {"training": counts}, "objects")
    names = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert len(names) == dataset.SHOWN_CLASSES and names[0] == "class 199" and names[-1] == "class 0"


def test_marks_of_images_lie_at_their_sizes():
    sizes = np.array([(48, 64), (48, 64), (100, 50), (0, 0)])
    figure = dataset.image_sizes({"training": sizes, "validation": np.zeros((3, 2), int)})
    (marks,) = figure.axes[0].collections
    np.testing.assert_array_equal(marks.get_offsets(), [(64, 48), (50, 100)])
    assert marks.get_sizes()[0] > marks.get_sizes()[1]
    assert "3 images, 2 sizes" in figure.axes[0].get_legend().get_texts()[0].get_text()


@pytest.mark.parametrize("boxes", [np.zeros((0, 2)), np.array([(0, 5), (10, 20), (3000, 4), (10, 20)])])
def test_boxes_of_any_size_are_counted(boxes):
    figure = dataset.box_sizes(boxes.astype(np.float32))
    (mesh,) = [c for c in figure.axes[0].collections if hasattr(c, "get_array") and c.get_array() is not None]
    assert np.ma.sum(mesh.get_array()) in (3, np.ma.masked) or len(boxes) == 0
    assert render(figure).shape[2] == 3
