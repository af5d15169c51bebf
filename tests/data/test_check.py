"""Every fault of a data set is found, by name."""

import dataclasses
import io
import json
import time

import numpy as np
import pytest
from PIL import Image

from jaxvision.data.check import check
from jaxvision.data.images import read_header, read_image
from jaxvision.data.sources.memory import InMemory
from jaxvision.data.table import Ragged, Table
from jaxvision.errors import SetupError

CLASSES = ("cat", "dog", "käse")


def picture(path, size=(20, 30), seed=0, mode="RGB", **options):
    """Noise of `size` (height, width)."""
    pixels = np.random.default_rng(abs(hash(str(path))) % 2**32 + seed).integers(0, 255, (*size, 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, **options)
    return str(path)


def table(folder, count=4, **columns):
    """`count` sound images with two sound boxes each, of all classes; columns replace those."""
    folder.mkdir(exist_ok=True)
    made = {
        "file": np.array([picture(folder / f"{i}.png", seed=i) for i in range(count)], object),
        "id": np.arange(count),
        "size": np.tile(np.array([[20, 30]]), (count, 1)),
        "boxes": Ragged.of([[(1, 2, 11, 12), (3, 4, 30, 20)]] * count, np.float32, (4,)),
        "labels": Ragged.of([[i % 3, (i + 1) % 3] for i in range(count)], np.int32),
    }
    return Table(f"made:{folder.name}", CLASSES, made | columns)


def replaced(data, key, place, rows):
    """The table with other values in one row of a Ragged column."""
    column = data.columns[key]
    values = [column.row(i) if i != place else rows for i in range(len(data))]
    shape = column.values.shape[1:]
    return dataclasses.replace(data, columns={**data.columns, key: Ragged.of(values, column.values.dtype, shape)})


def kinds(report, severity=None):
    return {f.kind for f in report.findings if severity in (None, f.severity)}


def one(report, kind):
    """The text of the only finding of a kind."""
    (finding,) = [f for f in report.findings if f.kind == kind]
    return finding


def test_a_sound_data_set_has_no_finding_and_its_numbers_are_right(tmp_path):
    train, validation = table(tmp_path / "train", 6), table(tmp_path / "val", 3)
    done = []
    report = check(train, validation, max_instances=2, on_image=done.append)
    assert report.findings == () and report.full and sum(done) == 9
    first, second = report.parts
    assert first.images == 6 and second.images == 3
    np.testing.assert_array_equal(first.images_per_class, [4, 4, 4])
    np.testing.assert_array_equal(first.objects_per_class, [4, 4, 4])
    assert first.pixels_per_class is None and first.sizes.tolist() == [[20, 30]] * 6
    assert first.boxes.tolist()[:2] == [[10, 10], [27, 16]]
    text = "\n".join(report.lines())
    assert "training: 6 images of made:train" in text and "20 x 30 pixels (height x width)" in text
    assert "found nothing wrong (every image was decoded" in text
    rows = [line.split() for line in report.table()]
    assert rows[0][0] == "class" and rows[1] == ["cat", "4", "4", "2", "2"] and rows[3][0] == "käse"
    assert json.loads(report.text())["parts"][0]["objects_per_class"] == [4, 4, 4]
    report.raise_errors("never")
    fast = check(train, validation, full=False)
    assert not fast.full and fast.findings == () and "images were not decoded" in fast.sentences()[-1]


def break_file(path, how):
    if how == "missing":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "directory":
        path.unlink()
        path.mkdir()
    elif how == "text":
        path.write_text("this is no image")
    elif how == "huge":
        Image.new("1", (9_000, 8_000)).save(path)
    elif how == "cut":
        stream = io.BytesIO()
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(stream, "JPEG")
        path.write_bytes(stream.getvalue()[:-1000])


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("missing", "there is no such file"),
        ("empty", "it is empty"),
        ("directory", "it is a directory"),
        ("text", "not an image that is recognised"),
        ("huge", "more than the limit"),
        ("cut", "cut short"),
    ],
)
def test_files_that_cannot_be_read_are_errors_with_name_and_reason(tmp_path, how, reason):
    train, validation = table(tmp_path / "train"), table(tmp_path / "val")
    break_file(tmp_path / "train" / "2.png", how)
    for full in (True, False):
        report = check(train, validation, full=full)
        if how == "cut" and not full:
            assert "unreadable" not in kinds(report)  # damage behind the header
            continue
        finding = one(report, "unreadable")
        assert finding.severity == "error" and finding.part == "training" and finding.rows == (2,)
        assert "1 image cannot be read: train/2.png (" in finding.text and reason in finding.text
        assert str(tmp_path) not in finding.text and report.root == f"{tmp_path}/"
        with pytest.raises(SetupError, match=r"train/2.png.*(?s:.)*Look closer with: check --data X"):
            report.raise_errors("check --data X")


BOXES = [
    ("box-not-finite", "error", (1, np.nan, 5, 6), "NaN"),
    ("box-backwards", "error", (9, 2, 4, 6), "right edge left of the left"),
    ("box-degenerate", "warning", (4, 2, 4, 6), "thinner than one pixel"),
    ("box-outside", "warning", (31, 2, 40, 6), "outside of the image altogether"),
    ("box-outside", "warning", (-8, 2, 4, 6), "by up to 8 pixels"),
    ("box-long", "note", (1, 1, 29, 2.2), "times longer than wide"),
]


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize(("kind", "severity", "box", "words"), BOXES)
def test_wrong_boxes_are_found_without_decoding(tmp_path, kind, severity, box, words, full):
    train = replaced(table(tmp_path / "train"), "boxes", 1, [(1, 2, 11, 12), box])
    report = check(train, table(tmp_path / "val"), full=full)
    finding = one(report, kind)
    assert (finding.severity, finding.count) == (severity, 1) and words in finding.text
    assert finding.text.endswith("train/1.png") and len(report.findings) == 1


def test_boxes_may_leave_the_image_by_a_rounding_error(tmp_path):
    train = replaced(table(tmp_path / "train"), "boxes", 1, [(-0.4, -0.9, 30.6, 20.9), (0, 0, 30, 20)])
    assert check(train, full=False).findings == ()


def test_labels_out_of_range_are_errors(tmp_path):
    train = replaced(table(tmp_path / "train"), "labels", 3, [-1, 7])
    finding = one(check(train, full=False), "label-range")
    assert finding.severity == "error" and finding.count == 2 and finding.text.endswith("in 3.png")
    assert "-1 and 7; expected 0..2 for 3 classes" in finding.text
    single = Table("x", CLASSES, {"file": table(tmp_path / "b").columns["file"], "label": np.array([0, 1, 3, 2])})
    assert "1 label is out of range (3;" in one(check(single, full=False), "label-range").text


def test_empty_images_and_classes_without_a_sample_are_named(tmp_path):
    train, validation = table(tmp_path / "train"), table(tmp_path / "val", 3)
    train = replaced(replaced(train, "labels", 0, []), "boxes", 0, np.zeros((0, 4)))
    validation = dataclasses.replace(
        validation, columns={**validation.columns, "labels": Ragged.of([[0, 1]] * 3, np.int32)}
    )
    report = check(train, validation, full=False)
    assert one(report, "empty-image").text == "training: 1 image has no object (25.0%): train/0.png"
    finding = one(report, "class-without-sample")
    assert (finding.severity, finding.text) == ("note", "validation: 1 class has no sample: käse")
    assert one(check(validation), "class-without-sample").severity == "warning"
    nothing = Ragged.of([[]] * 3, np.int32)
    none = dataclasses.replace(
        validation, columns={**validation.columns, "labels": nothing, "boxes": Ragged.of([[]] * 3, np.float32, (4,))}
    )
    assert one(check(none, full=False), "empty-image").severity == "error"


def test_unequal_classes_are_mentioned(tmp_path):
    labels = np.array([0] * 20 + [1] * 2 + [2] * 5)
    data = table(tmp_path / "train", 27)
    data = Table("x", CLASSES, {"file": data.columns["file"], "label": labels})
    assert "cat in 20 images, dog in 2 images" in one(check(data, full=False), "class-imbalance").text


def test_duplicated_ids_files_and_contents_are_told_apart(tmp_path):
    train = table(tmp_path / "train", 5, id=np.array([0, 1, 1, 3, 4]))
    finding = one(check(train, full=False), "duplicate-id")
    assert finding.severity == "warning" and "1 id (1) stands for more than one image: 1.png and 2.png" in finding.text
    (tmp_path / "train" / "4.png").write_bytes((tmp_path / "train" / "3.png").read_bytes())
    assert "1 image is the same as another one: 3.png = 4.png" in one(check(train), "duplicate-image").text
    again = train.take(np.array([0, 0, 3, 4]))  # what a wrapper does
    report = check(again, full=False)
    assert kinds(report) == {"repeated-image"} and report.findings[0].severity == "note"
    labelled = Table("x", CLASSES, {"file": train.columns["file"], "label": np.array([0, 1, 2, 0, 1])})
    assert "copies with different labels: 3.png = 4.png" in one(check(labelled), "contradiction").text


def test_images_of_training_in_validation_are_found_by_path_and_by_content(tmp_path):
    train, validation = table(tmp_path / "train"), table(tmp_path / "val")
    (tmp_path / "val" / "1.png").write_bytes((tmp_path / "train" / "2.png").read_bytes())
    report = check(train, validation)
    finding = one(report, "leakage")
    assert finding.severity == "warning" and finding.rows == (1,)
    assert finding.text == "both: 1 validation image is a training image too: val/1.png = train/2.png"
    assert check(train, validation, full=False).findings == ()  # contents are not compared
    shared = train.take(np.array([3, 1]))
    assert "every validation image is a training image too" in one(check(train, shared, full=False), "leakage").text


def test_pixels_in_memory_are_compared_too():
    images = np.random.default_rng(0).integers(0, 255, (12, 8, 8, 1), np.uint8)
    make = {"class_names": ("a", "b"), "image_size": (8, 8), "channels": 1}
    train = InMemory(images[:8], np.array([0, 1] * 4), name="m", **make)
    report = check(train, InMemory(images[7:], np.array([0, 1, 0, 1, 0]), name="m", **make))
    assert kinds(report) == {"leakage"} and "sample 0 = sample 7" in one(report, "leakage").text
    np.testing.assert_array_equal(report.parts[0].images_per_class, [4, 4])
    images[2] = 0
    blank = check(InMemory(images, np.array([0, 1] * 6), name="m", **make))
    assert one(blank, "blank-image").text == "training: 1 image is of one colour only: sample 2"
    assert check(train, full=False).findings == ()


def test_classes_that_differ_or_are_doubled_are_errors(tmp_path):
    train, validation = table(tmp_path / "train"), table(tmp_path / "val")
    report = check(train, dataclasses.replace(validation, class_names=("cat", "dog", "bread")), full=False)
    assert "training alone has käse; validation alone has bread" in one(report, "class-names").text
    twice = dataclasses.replace(train, class_names=("cat", "dog", "cat"))
    assert "1 class name is there more than once: cat" in one(check(twice, full=False), "class-names").text


def test_objects_beyond_the_room_of_a_batch_are_counted(tmp_path):
    train = table(tmp_path / "train")
    finding = one(check(train, max_instances=1, full=False), "too-many-objects")
    assert finding.count == 4 and "4 images have more than data.max_instances=1 objects (up to 2)" in finding.text


def test_annotated_sizes_must_be_those_of_the_files(tmp_path):
    train = table(tmp_path / "train", size=np.array([[20, 30], [21, 30], [0, 0], [20, 30]]))
    finding = one(check(train, full=False), "annotated-size")
    assert "1.png (annotated 21 x 30, is 20 x 30, height x width)" in finding.text and finding.count == 1
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(tmp_path / "train" / "3.png", exif=exif)
    image = Image.open(tmp_path / "train" / "3.png")
    image.save(tmp_path / "train" / "3.jpg", exif=exif)
    image.close()
    files = train.columns["file"].copy()
    files[3] = str(tmp_path / "train" / "3.jpg")
    report = check(dataclasses.replace(train, columns={**train.columns, "file": files}), full=False)
    assert "not upright as EXIF says" in one(report, "annotated-sideways").text
    assert "turned upright by their EXIF orientation: 3.jpg" in one(report, "exif-rotated").text


def test_how_unusual_files_are_read_is_noted(tmp_path):
    train = table(tmp_path / "train", 7)
    folder = tmp_path / "train"
    picture(folder / "0.png", mode="L")
    picture(folder / "1.png", mode="RGBA")
    Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30)).save(folder / "2.png")
    picture(folder / "3.png", mode="CMYK", format="JPEG")
    frames = [Image.new("RGB", (30, 20), color) for color in ("red", "blue")]
    frames[0].save(folder / "4.png", format="GIF", save_all=True, append_images=frames[1:])
    picture(folder / "5.png", size=(20, 100))
    report = check(train, full=False)
    expected = {"grey", "transparent", "16-bit", "cmyk", "animated", "image-long", "wrong-suffix", "annotated-size"}
    assert kinds(report) - {"box-outside"} == expected
    text = one(report, "wrong-suffix").text
    assert "2 files are of another format than the name says: 3.png (JPEG) and 4.png (GIF)" in text
    for kind, name in {"grey": 0, "transparent": 1, "16-bit": 2, "cmyk": 3, "animated": 4, "image-long": 5}.items():
        finding = one(report, kind)
        assert finding.severity == "note" and finding.text.endswith(f"{name}.png"), finding


def masked(folder, values):
    """One image per map of values."""
    folder.mkdir(exist_ok=True)
    files, maps = [], []
    for i, value in enumerate(values):
        files.append(picture(folder / f"{i}.jpg"))
        Image.fromarray(value.astype(np.uint8)).save(folder / f"{i}_mask.png")
        maps.append(str(folder / f"{i}_mask.png"))
    columns = {"file": np.array(files, object), "semantic_file": np.array(maps, object)}
    return Table("masks", CLASSES, columns)


def test_pixels_of_maps_are_counted_and_unknown_values_found(tmp_path):
    sound = np.tile(np.repeat([0, 1, 2, 255], [10, 10, 5, 5]), (20, 1))
    report = check(masked(tmp_path / "a", [sound, sound]))
    assert report.findings == ()
    np.testing.assert_array_equal(report.parts[0].pixels_per_class, [400, 400, 200])
    np.testing.assert_array_equal(report.parts[0].images_per_class, [2, 2, 2])
    assert report.parts[0].ignored_pixels == 200
    holed = np.where(sound == 2, 7, sound)
    data = masked(tmp_path / "b", [sound, holed])
    finding = one(check(data), "mask-value")
    assert finding.severity == "error" and "values 7 of masks (100 pixels)" in finding.text
    assert finding.text.endswith("1.jpg")
    values = np.full(256, 255, np.uint8)
    values[:3] = range(3)
    finding = one(check(dataclasses.replace(data, semantic_values=values)), "mask-value-ignored")
    assert finding.severity == "warning" and "values 7 of masks" in finding.text


def test_maps_that_do_not_fit_are_errors(tmp_path):
    sound = np.tile(np.repeat([0, 1, 2], 10), (20, 1))
    data = masked(tmp_path / "a", [sound] * 4)
    Image.fromarray(sound.astype(np.uint8)[:10]).save(tmp_path / "a" / "1_mask.png")
    (tmp_path / "a" / "2_mask.png").unlink()
    for full in (True, False):
        text = one(check(data, full=full), "unusable-mask").text
        assert "2 images have masks that cannot be used: 1.jpg (label map '1_mask.png' is 10 x 30" in text
        assert "2.jpg (cannot read image '2_mask.png': there is no such file)" in text
    picture(tmp_path / "a" / "3_mask.png")
    assert "its mode is RGB" in one(check(data), "unusable-mask").text


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
def test_instance_masks_are_drawn_in_the_full_mode(tmp_path):
    pytest.importorskip("pycocotools")
    segmentation = np.empty(8, object)
    for i in range(8):
        segmentation[i] = [[1, 1, 10, 1, 10, 10]]
    segmentation[3] = {"size": [5, 5], "counts": [25]}
    segmentation[4] = {"size": [20, 30], "counts": [600]}
    train = table(tmp_path / "train", segmentation=Ragged(segmentation, np.arange(0, 10, 2)))
    report = check(train)
    assert "1.png (a mask of size [5, 5] for an image of 20 x 30 pixels)" in one(report, "unusable-mask").text
    assert one(report, "empty-mask").text == "training: 1 object has a mask without any pixel: 2.png"


def test_keypoints_outside_or_broken_are_found(tmp_path):
    points = np.tile(np.array([[[5, 6, 2], [0, 0, 0]]], np.float32), (8, 1, 1))
    points[2, 0] = (50, 6, 2)
    points[5, 0] = (np.nan, 6, 1)
    points[6, 1] = (np.nan, 900, 0)  # not labelled
    report = check(table(tmp_path / "train", keypoints=Ragged(points, np.arange(0, 10, 2))), full=False)
    assert one(report, "keypoint-outside").text.endswith("visible keypoint lies outside of the image: 1.png")
    assert one(report, "keypoint-not-finite").text.endswith("2.png") and len(report.findings) == 2


@dataclasses.dataclass
class Made:
    """A source of samples that lie in no file."""

    count: int = 40
    name: str = "made"
    class_names: tuple = ("a", "b")
    annotations: tuple = ("boxes", "labels", "semantic")
    keypoint_names: tuple = ()

    def __len__(self):
        return self.count

    def sample(self, index):
        image = np.random.default_rng(index).integers(0, 255, (8, 9, 3), np.uint8)
        boxes = np.array([(0, 0, 4, 5), (1, 1, 20, 3)], np.float32)
        labels = np.array([0, 1], np.int32)
        semantic = np.full((8, 9), index % 2, np.uint8)
        return {"image": image, "file": f"scene {index}", "boxes": boxes, "labels": labels, "semantic": semantic}


def test_made_samples_are_checked_too():
    report = check(Made())
    assert one(report, "box-outside").count == 40 and "scene 0, scene 1, scene 2 and 37 more" in report.findings[0].text
    np.testing.assert_array_equal(report.parts[0].pixels_per_class, [20 * 72, 20 * 72])
    fast = check(Made(), full=False)
    assert fast.parts[0].looked == 8 and "8 of them were looked at" in fast.parts[0].lines()[0]


class Slow(InMemory):
    """Draws its images when they are asked for."""

    def gather(self, indices):
        time.sleep(0.01 * len(indices))
        return super().gather(indices)


def test_a_source_that_draws_is_not_drawn_out_before_training():
    make = {"class_names": ("a", "b"), "name": "slow", "image_size": (8, 8), "channels": 1}
    source = Slow(np.random.default_rng(0).integers(0, 255, (400, 8, 8), np.uint8), np.arange(400) % 2, **make)
    start = time.monotonic()
    (part,) = check(source, full=False).parts
    assert time.monotonic() - start < 3 and 8 <= part.looked < 300
    assert part.images_per_class.sum() == part.looked and part.images_per_class.min() > 0


def test_an_empty_part_is_an_error(tmp_path):
    train = table(tmp_path / "train")
    assert (
        one(check(train, train.take(np.zeros(0, int)), full=False), "no-image").text == "validation: there is no image"
    )


def test_many_classes_show_the_most_and_the_least_frequent(tmp_path):
    data = table(tmp_path / "train", 3)
    names = tuple(f"class {i}" for i in range(100))
    lines = check(dataclasses.replace(data, class_names=names), full=False).table()
    assert len(lines) == 42 and lines[1].startswith("class 0 ") and "... 60 more ..." in lines


def test_headers_say_what_decoding_gives(tmp_path):
    for orientation in (1, 3, 6):
        exif = Image.Exif()
        exif[0x0112] = orientation
        for name in ("x.jpg", "x.webp", "x.tif"):
            path = picture(tmp_path / name, exif=exif)
            header = read_header(path)
            assert header.size == read_image(path).shape[:2] and header.orientation == orientation
            assert read_header((tmp_path / name).read_bytes()) == header


def test_ten_thousand_images_are_checked_in_two_seconds(tmp_path):
    data = table(tmp_path / "train", 50)
    rows = np.arange(10_000) % 50
    many = data.take(rows)
    files = np.array([f"{tmp_path}/train/{i}.png" for i in range(10_000)], object)
    source = (tmp_path / "train" / "0.png").read_bytes()
    for file in files:
        with open(file, "wb") as stream:
            stream.write(source)
    many = dataclasses.replace(many, columns={**many.columns, "file": files, "id": np.arange(10_000)})
    start = time.process_time()
    assert check(many, data, full=False).parts[0].opened == 5_000
    assert time.process_time() - start < 2
