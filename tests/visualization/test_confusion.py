"""Pictures of confusion matrices from one class to a thousand."""

import numpy as np
import pytest
from PIL import Image

from jaxvision.visualization.canvas import render
from jaxvision.visualization.confusion import confusion_figure, plot_confusion


def random_matrix(classes, seed=0):
    return np.random.default_rng(seed).integers(0, 9, (classes, classes)) + 20 * np.eye(classes, dtype=int)


@pytest.mark.parametrize("classes", [1, 2, 10, 25, 26, 60, 61, 300, 1000])
def test_every_number_of_classes_gives_a_picture_of_sensible_size(classes, tmp_path):
    plot_confusion(random_matrix(classes), [f"class {i}" for i in range(classes)], tmp_path / "matrix.png")
    with Image.open(tmp_path / "matrix.png") as picture:
        assert 250 <= picture.width <= 1400 and 250 <= picture.height <= 1400


def test_cells_carry_counts_while_they_are_legible():
    matrix = np.array([[12, 0], [3, 1_234_567]])
    texts = {text.get_position(): text.get_text() for text in confusion_figure(matrix, []).axes[0].texts}
    assert texts == {(0, 0): "12", (0, 1): "3", (1, 1): "1.2M"}
    assert not confusion_figure(random_matrix(26), []).axes[0].texts


def test_names_stand_at_rows_and_columns_while_they_fit():
    names = [f"class {i}" for i in range(60)]
    axes = confusion_figure(random_matrix(60), names).axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == names == [t.get_text() for t in axes.get_yticklabels()]
    assert len(confusion_figure(random_matrix(61), []).axes[0].get_xticks()) < 20


def test_rows_are_normalised_and_empty_rows_masked():
    image = confusion_figure(np.array([[3, 1], [0, 0]]), []).axes[0].images[0]
    shares = np.ma.filled(image.get_array(), np.nan)
    np.testing.assert_array_equal(shares, [[0.75, 0.25], [np.nan, np.nan]])


def test_every_class_of_a_thousand_has_its_pixel():
    matrix = np.zeros((1000, 1000), int)
    matrix[np.arange(1000), np.arange(1000)[::-1]] = 1
    pixels = render(confusion_figure(matrix, []))
    dark = (pixels == (8, 48, 107)).all(axis=2)  # the dark end of the map
    rows, columns = np.nonzero(dark)
    inside = columns < columns.min() + 1000  # the colour bar lies to the right
    assert len(np.unique(rows[inside])) >= 998 and len(np.unique(columns[inside])) >= 998


def test_names_of_any_script_and_with_dollars_are_drawn_as_they_are(tmp_path):
    names = ["$5 and $6", "猫", "a very long name that cannot be shown in full anywhere"]
    figure = confusion_figure(random_matrix(3), names)
    render(figure)
    assert figure.axes[0].get_xticklabels()[0].get_text() == "$5 and $6"
    assert figure.axes[0].get_xticklabels()[2].get_text().endswith("…")
    plot_confusion(random_matrix(3), names, tmp_path / "matrix.svg")


def test_the_title_says_the_accuracy():
    texts = [text.get_text() for text in confusion_figure(np.array([[3, 1], [0, 4]]), []).texts]
    assert texts == ["Confusion matrix\n87.50% of 8 right"]
    assert "no sample" in confusion_figure(np.zeros((2, 2), int), []).texts[0].get_text()


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"square confusion matrix \[C, C\], not shape \(2, 3\)"):
        confusion_figure(np.zeros((2, 3)), [])
    with pytest.raises(ValueError, match="3 class names for a confusion matrix of 2 classes"):
        confusion_figure(np.zeros((2, 2)), ["a", "b", "c"])
