"""Batches of files: those of `prepare`, in the plain loader's order, from any step, for any number of processes."""

import dataclasses
import io
import itertools
import resource
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxvision.data import jpeg, tf_loader
from jaxvision.data.images import ImageError, read_image
from jaxvision.data.loader import Loader
from jaxvision.data.order import sample_rng
from jaxvision.data.prepare import prepare
from jaxvision.data.sources.memory import InMemory
from jaxvision.data.table import Ragged, Table
from jaxvision.data.tf_loader import TfLoader
from jaxvision.data.transforms import (
    CenterCrop,
    Expand,
    IouCrop,
    Letterbox,
    RandomCrop,
    RandomResizedCrop,
    Resize,
    ResizeSide,
)
from jaxvision.errors import SetupError

ROOT = Path(__file__).parent.parent.parent

# pycocotools 2.0 under numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module", autouse=True)
def tensorflow():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = tf_loader.import_tensorflow()
    if module is None:
        pytest.skip("TensorFlow is not installed")
    return module


@pytest.fixture(params=["tensorflow", "threads"])
def either(request, monkeypatch):
    """Runs a test on both kinds of workers."""
    if request.param == "threads":
        monkeypatch.setattr(tf_loader, "import_tensorflow", lambda: None)
    return request.param


def picture(seed, size=(61, 83)):
    """Smooth colours, as photographs have them."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
    return coarse.resize(size[::-1], Image.Resampling.BICUBIC)


def exif(orientation):
    data = Image.Exif()
    data[0x0112] = orientation
    return data


def save(path, image, **options):
    image.save(path, **options)
    return str(path)


def every_kind(folder):
    """Files of every kind that the one rule covers."""
    image = picture(0)
    deep = (np.asarray(image.convert("L")).astype(np.uint16) << 8) + 17
    alpha = image.convert("RGBA")
    alpha.putalpha(picture(3).convert("L"))
    frames = [picture(i).convert("P") for i in (4, 5)]
    files = {
        "plain.jpg": save(folder / "plain.jpg", image, quality=90),
        "progressive.jpg": save(folder / "progressive.jpg", image, progressive=True, quality=90),
        "full chroma.jpg": save(folder / "full chroma.jpg", image, subsampling=0, quality=90),
        "grey.jpg": save(folder / "grey.jpg", image.convert("L"), quality=90),
        "cmyk.jpg": save(folder / "cmyk.jpg", image.convert("CMYK"), quality=90),
        "wrong extension.png": save(folder / "wrong extension.png", image, format="JPEG", quality=90),
        "plain.png": save(folder / "plain.png", image),
        "alpha.png": save(folder / "alpha.png", alpha),
        "palette.png": save(folder / "palette.png", image.convert("P")),
        "deep.png": save(folder / "deep.png", Image.fromarray(deep)),
        "animated.gif": save(folder / "animated.gif", frames[0], save_all=True, append_images=frames[1:]),
        "plain.webp": save(folder / "plain.webp", image),
        "jpeg 2000.jp2": save(folder / "jpeg 2000.jp2", image),
    }
    for orientation in range(1, 9):
        name = f"turned {orientation}.jpg"
        files[name] = save(folder / name, image, exif=exif(orientation), quality=90)
    return files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("images")


@pytest.fixture(scope="module")
def kinds(folder):
    return every_kind(folder)


@pytest.fixture(scope="module")
def table(kinds):
    """All of them, with boxes, masks, keypoints and labels made up."""
    files = np.array(list(kinds.values()), object)
    rng = np.random.default_rng(0)
    sizes = [read_image(file).shape[:2] for file in files]
    counts = [i % 4 for i in range(len(files))]
    boxes, polygons, keypoints = [], [], []
    for (height, width), count in zip(sizes, counts, strict=True):
        corners = np.sort(rng.random((count, 2, 2)), 1) * [width - 3, height - 3]
        box = np.concatenate([corners[:, 0], corners[:, 1] + 3], 1)
        boxes.append(box)
        polygons.append([[list(map(float, b[[0, 1, 2, 1, 2, 3, 0, 3]]))] for b in box])
        keypoints.append(np.concatenate([corners, np.full((count, 2, 1), 2)], -1))
    values = np.empty(sum(counts), object)
    values[:] = list(itertools.chain.from_iterable(polygons))
    splits = np.concatenate([[0], np.cumsum(counts)])
    return Table(
        "kinds",
        ("a", "b"),
        {
            "file": files,
            "label": np.arange(len(files), dtype=np.int32) % 2,
            "boxes": Ragged.of(boxes, np.float32, (4,)),
            "labels": Ragged.of([rng.integers(0, 2, n) for n in counts], np.int32),
            "keypoints": Ragged.of(keypoints, np.float32, (2, 3)),
            "segmentation": Ragged(values, splits),
        },
        keypoint_names=("p", "q"),
    )


CHAINS = {
    "letterbox": (Letterbox(),),
    "random resized crop": (RandomResizedCrop(scale=(0.3, 1.0)),),
    "ssd": (Expand(), IouCrop(), Resize()),
    "evaluation": (ResizeSide(50), CenterCrop()),
    "crop": (RandomCrop(padding=3),),
}


def rows_of(batch):
    return [jax.tree.map(lambda leaf: leaf[i], batch) for i in range(len(batch["valid"]))]  # noqa: B023


@pytest.mark.parametrize("chain", sorted(CHAINS))
def test_samples_are_those_of_prepare(table, kinds, chain, either):
    loader = TfLoader(table, 3, seed=5, transforms=CHAINS[chain], image_size=(48, 40), max_instances=4, workers=2)
    names, worst = list(kinds), {}
    batches = loader.train()
    for batch in itertools.islice(batches, loader.steps_per_epoch):
        for row in rows_of(batch):
            index = int(row["index"])
            whole = table.sample(index)
            expected = prepare(
                whole.pop("image"),
                whole,
                CHAINS[chain],
                sample_rng(5, int(row["position"])),
                canvas=(48, 40),
                train=True,
            )
            worst[names[index]] = np.abs(row["image"].astype(int) - expected["image"]).mean()
            targets, count = row["targets"], len(expected["boxes"])
            assert targets.valid.sum() == count
            np.testing.assert_array_equal(targets.boxes[:count], expected["boxes"])
            np.testing.assert_array_equal(targets.labels[:count], expected["labels"])
            np.testing.assert_array_equal(targets.keypoints[:count], expected["keypoints"])
            np.testing.assert_array_equal(targets.masks[:count], np.packbits(expected["masks"], -1))
            for key in ("size", "original_size", "to_original", "label"):
                np.testing.assert_array_equal(row[key], expected[key])
    batches.close()
    assert max(worst.values()) < 1, worst


@pytest.mark.parametrize("canvas", [(30, 40), (60, 80), (120, 200), (300, 300)])
def test_photographs_are_within_two_levels_of_prepare(test_data, canvas):
    files = sorted((test_data / "data/coco_mini/images/val2017").glob("*.jpg"))[:8]
    table = Table("photos", ("a",), {"file": np.array(list(map(str, files)), object), "label": np.zeros(8, np.int32)})
    for transforms in ((Resize(),), (RandomResizedCrop(),), (ResizeSide(400), RandomCrop())):
        loader = TfLoader(table, 8, transforms=transforms, image_size=canvas, training=False, workers=2)
        batch = next(loader.evaluate())
        for index, file in enumerate(files):
            expected = prepare(file, None, transforms, sample_rng(0, index), canvas=canvas)
            assert np.abs(batch["image"][index].astype(int) - expected["image"]).mean() < 2


@given(st.binary(max_size=60))
@settings(max_examples=200, deadline=None)
def test_no_header_is_too_strange(noise):
    for start in (b"\xff\xd8\xff", b"\xff\xd8\xff\xe1\x00\x20Exif\x00\x00II", b"\xff\xd8\xff\xc0", b""):
        jpeg.read_header(start + noise)


def test_headers_say_which_files_any_decoder_reads_alike(kinds):
    plain = {name for name, file in kinds.items() if (h := jpeg.read_header(Path(file).read_bytes())) and h.plain}
    assert plain == {
        *("plain.jpg", "progressive.jpg", "full chroma.jpg", "grey.jpg", "wrong extension.png", "turned 1.jpg"),
    }
    for name in plain:
        encoded = Path(kinds[name]).read_bytes()
        assert jpeg.read_header(encoded).size == Image.open(io.BytesIO(encoded)).size[::-1]
        for length in range(0, 400, 7):
            jpeg.read_header(encoded[:length])


@pytest.fixture(scope="module")
def small(folder):
    """Eleven small files, each of one grey that is its number."""
    files = [save(folder / f"{i}.png", Image.new("L", (9, 7), i)) for i in range(11)]
    return Table("small", ("a",), {"file": np.array(files, object), "label": np.zeros(11, np.int32)})


def plain_loader(seed, *processes):
    images = np.zeros((11, 7, 9, 1), np.uint8)
    source = InMemory(images, np.zeros(11, int), ("a",), name="plain", image_size=(7, 9), channels=1)
    return Loader(source, 4, seed, *processes)


def make(table, batch=4, *processes, **options):
    options = dict(transforms=(RandomCrop(padding=2),), image_size=(7, 9), channels=1, workers=2) | options
    return TfLoader(table, batch, options.pop("seed", 2), *processes, **options)


def taken(iterator, count):
    with_close = list(itertools.islice(iterator, count))
    iterator.close()
    return with_close


def equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)
    return True


def test_order_and_positions_are_those_of_the_plain_loader(small, either):
    for ours, plain in zip(taken(make(small).train(), 7), plain_loader(2).train(), strict=False):
        for key in ("index", "position", "valid"):
            np.testing.assert_array_equal(ours[key], plain[key])
            assert ours[key].dtype == plain[key].dtype
        assert (ours["image"][:, 3:5, 3:6, 0] == ours["index"][:, None, None]).all()


def test_repeated_images_are_each_augmented_anew(small, either):
    plain = dataclasses.replace(plain_loader(2), repeats=2)
    differ = False
    for ours, theirs in zip(taken(make(small, repeats=2).train(1), 6), plain.train(1), strict=False):
        for key in ("index", "position"):
            np.testing.assert_array_equal(ours[key], theirs[key])
        assert (np.unique(ours["index"], return_counts=True)[1] == 2).all()
        first, second = ours["image"][:2], ours["image"][2:]
        np.testing.assert_array_equal(ours["index"][:2], ours["index"][2:])
        differ |= bool((first != second).any())
    assert differ


def test_any_step_is_reached_at_once(small, either):
    every = taken(make(small).train(), 9)
    for start in (0, 1, 5, 8):
        equal(taken(make(small).train(start), 1)[0], every[start])
    taken(make(small).train(10**9), 1)
    with pytest.raises(ValueError, match="start_step is -1"):
        make(small).train(-1)


def test_two_processes_see_what_one_sees(small, either):
    one = taken(make(small).train(), 4)
    two = [taken(make(small, 4, process, 2).train(), 4) for process in range(2)]
    for step in range(4):
        equal(one[step], jax.tree.map(lambda *parts: np.concatenate(parts), *(part[step] for part in two)))


PROCESS = """
import hashlib, sys
import jax, numpy as np
from jaxvision.data.table import Table
from jaxvision.data.tf_loader import TfLoader
from jaxvision.data.transforms import RandomResizedCrop

process, count, *files = sys.argv[1:]
table = Table("files", ("a",), {"file": np.array(files, object), "label": np.zeros(len(files), np.int32)})
loader = TfLoader(table, 4, 3, int(process), int(count), transforms=(RandomResizedCrop(),), image_size=(32, 32))
for batches in (loader.train(2), loader.evaluate()):
    for _, batch in zip(range(loader.evaluation_steps), batches):
        for i in range(loader.local_batch_size):
            rows = [np.asarray(leaf[i]).tobytes() for leaf in jax.tree.leaves(batch)]
            print(hashlib.sha256(b"".join(rows)).hexdigest())
"""


def test_two_real_processes_see_what_one_sees(kinds):
    files = [file for name, file in kinds.items() if name != "cmyk.jpg"]
    outputs = []
    for count in (1, 2):
        running = [
            subprocess.Popen(
                [sys.executable, "-c", PROCESS, str(process), str(count), *files],
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
            )
            for process in range(count)
        ]
        printed = [process.communicate(timeout=300)[0].split() for process in running]
        assert not any(process.returncode for process in running)
        outputs.append([np.array(part).reshape(-1, 4 // count) for part in printed])
    np.testing.assert_array_equal(outputs[0][0], np.concatenate(outputs[1], 1))
    assert len(outputs[0][0]) == 2 * 5


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_evaluation_visits_every_sample_once_in_as_many_steps_everywhere(small, processes, either):
    parts = [list(make(small, 4, process, processes, training=False).evaluate()) for process in range(processes)]
    assert {len(part) for part in parts} == {3}
    seen = [int(i) for part in parts for batch in part for i in batch["index"][batch["valid"]]]
    assert sorted(seen) == list(range(11))


def test_each_step_has_a_bucket_that_every_process_knows(small):
    buckets = ((7, 9), (9, 7), (8, 8))
    loaders = [make(small, 4, process, 2, buckets=buckets, transforms=(Resize(),)) for process in range(2)]
    shapes = [[batch["image"].shape[1:3] for batch in taken(loader.train(3), 12)] for loader in loaders]
    assert shapes[0] == shapes[1] and set(shapes[0]) == set(buckets)
    assert shapes[0] == [loaders[0].canvas(step) for step in range(3, 15)]
    assert {batch["image"].shape[1:3] for batch in loaders[0].evaluate()} == {(7, 9)}


@pytest.fixture(scope="module")
def oriented(tmp_path_factory):
    """Eleven images, seven of them wide, one square; they are 20 to 30 pixels high and wide."""
    folder, shapes = tmp_path_factory.mktemp("oriented"), [(20, 30)] * 4 + [(30, 20)] * 3 + [(20, 20)] + [(21, 28)] * 3
    shapes = [shapes[i] for i in np.random.default_rng(1).permutation(11)]
    files = [save(folder / f"{i}.png", picture(i, size)) for i, size in enumerate(shapes)]
    return Table("oriented", (), {"file": np.array(files, object), "size": np.array(shapes)})


WIDE, TALL = (24, 36), (36, 24)


def on_buckets(table, process=0, processes=1, **options):
    options = {"transforms": (ResizeSide(24, 36),), "image_size": (36, 36), "training": False} | options
    return TfLoader(table, 4, 0, process, processes, workers=2, **options)


@pytest.mark.parametrize("annotated", [True, False])
def test_evaluation_has_each_image_on_the_canvas_of_its_orientation_at_its_full_size(oriented, annotated, either):
    table = oriented if annotated else dataclasses.replace(oriented, columns={"file": oriented.columns["file"]})
    loader, plain = on_buckets(table, eval_buckets=(WIDE, TALL)), on_buckets(table)
    whole = {int(i): (b, row) for b in plain.evaluate() for row, i in enumerate(b["index"]) if b["valid"][row]}
    batches = list(loader.evaluate())
    assert [b["image"].shape[1:3] for b in batches] == [WIDE, WIDE, TALL] and loader.evaluation_steps == 3
    assert [int(b["valid"].sum()) for b in batches] == [4, 4, 3]
    seen = []
    for batch in batches:
        order = batch["index"][batch["valid"]].tolist()
        assert order == sorted(order) and set(batch["index"][~batch["valid"]].tolist()) <= {order[-1]}
        for row, index in enumerate(order):
            other, place = whole[index]
            height, width = batch["size"][row].astype(int)
            assert oriented.columns["size"][index].argmax() == np.argmax(batch["image"].shape[1:3]) or height == width
            for name in ("size", "original_size", "to_original", "position"):
                np.testing.assert_array_equal(batch[name][row], other[name][place], name)
            np.testing.assert_array_equal(batch["image"][row, :height, :width], other["image"][place, :height, :width])
        seen += order
    assert sorted(seen) == list(range(11))


def test_processes_agree_on_the_canvases_of_evaluation(oriented):
    parts = [list(on_buckets(oriented, i, 2, eval_buckets=(WIDE, TALL)).evaluate()) for i in range(2)]
    (alone,) = [list(on_buckets(oriented, eval_buckets=(WIDE, TALL)).evaluate())]
    for batch, *own in zip(alone, *parts, strict=True):
        for name in ("image", "valid", "index", "size"):
            np.testing.assert_array_equal(batch[name], np.concatenate([part[name] for part in own]), name)
    tall = oriented.take(np.flatnonzero(np.diff(oriented.columns["size"], axis=1)[:, 0] < 0))
    assert [b["image"].shape[1:3] for b in on_buckets(tall, eval_buckets=(WIDE, TALL)).evaluate()] == [TALL]


def test_example_batch_has_the_structure_of_a_batch(table):
    loader = TfLoader(table, 4, transforms=(Letterbox(),), image_size=(32, 32), max_instances=3, workers=1)
    example, batch = loader.example_batch(), next(loader.evaluate())
    describe = lambda tree: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)  # noqa: E731
    assert describe(example) == describe(batch)


def test_label_maps_are_in_the_batch(folder, either):
    image = picture(1)
    classes = np.asarray(image.convert("L")) // 100
    files = [save(folder / f"map {i}.jpg", image) for i in range(2)]
    maps = [save(folder / f"map {i}.png", Image.fromarray(classes)) for i in range(2)]
    table = Table("maps", tuple("abc"), {"file": np.array(files, object), "semantic_file": np.array(maps, object)})
    batch = next(make(table, 2, transforms=(), image_size=(64, 90), channels=3).evaluate())
    np.testing.assert_array_equal(batch["semantic"][0, :61, :83], classes)
    assert (batch["semantic"][:, 61:] == 255).all() and (batch["semantic"][:, :, 83:] == 255).all()


def test_objects_beyond_the_limit_are_counted_in_a_warning(table, either):
    loader = TfLoader(table, 4, transforms=(Letterbox(),), image_size=(32, 32), max_instances=2, workers=1)
    with pytest.warns(UserWarning, match="has 3 objects, of which max_instances=2 are kept; set data.max_instances"):
        list(loader.evaluate())


class Made:
    """A source without files."""

    name, class_names, annotations, keypoint_names = "made", ("a",), ("label",), ()

    def __len__(self):
        return 5

    def sample(self, index):
        return {"image": np.full((6, 8, 3), index, np.uint8), "file": "made", "id": index, "label": 0}


def test_sources_without_files_work():
    batches = list(TfLoader(Made(), 2, transforms=(Resize(),), image_size=(4, 4)).evaluate())
    assert [int(image[0, 0, 0]) for batch in batches for image in batch["image"]] == [0, 1, 2, 3, 4, 4]


def damage(folder, name):
    path = folder / name
    encoded = io.BytesIO()
    picture(9, (200, 300)).save(encoded, "JPEG", quality=95)
    encoded = encoded.getvalue()
    if name == "truncated.jpg":
        path.write_bytes(encoded[: len(encoded) // 2])
    elif name == "empty.jpg":
        path.write_bytes(b"")
    elif name == "text.jpg":
        path.write_bytes(b"hello")
    elif name == "directory.jpg":
        path.mkdir(exist_ok=True)
    elif name == "huge.jpg":
        at = encoded.index(b"\xff\xc0")
        size = (10_000).to_bytes(2, "big")
        path.write_bytes(encoded[: at + 5] + size + size + encoded[at + 9 :])
    return str(path)


@pytest.mark.parametrize(
    "name,reason",
    [
        ("truncated.jpg", "damaged or cut short"),
        ("empty.jpg", "it is empty"),
        ("text.jpg", "not an image that is recognised"),
        ("directory.jpg", "it is a directory"),
        ("huge.jpg", "limit of"),
        ("missing.jpg", "there is no such file"),
    ],
)
def test_a_bad_file_is_named(small, folder, name, reason, either):
    files = small.columns["file"].copy()
    files[6] = damage(folder, name)
    broken = dataclasses.replace(small, columns={**small.columns, "file": files})
    batches = make(broken, transforms=(Resize(),)).evaluate()
    next(batches)
    with pytest.raises(ImageError, match=reason) as error:
        next(batches)
    assert name in str(error.value) and isinstance(error.value, ValueError)


def test_a_bad_record_is_named(small):
    records = [Path(file).read_bytes() for file in small.columns["file"]]
    records[2] = b"broken"
    table = dataclasses.replace(small, read=records.__getitem__)
    with pytest.raises(ImageError, match="2.png'.*not an image"):
        list(make(table).evaluate())


class Failing:
    def plan(self, view, sample, rng):
        raise RuntimeError("a transform of the user failed")


def test_an_error_of_a_transform_arrives_as_it_is(small, either):
    with pytest.raises(RuntimeError, match="^a transform of the user failed$"):
        next(make(small, transforms=(Failing(),)).train())


def test_iteration_ends_with_its_threads(small, either):
    before = threading.active_count()
    batches = make(small).train()
    for _ in range(3):
        next(batches)
    batches.close()
    assert threading.active_count() <= before + 1
    with pytest.raises(StopIteration):
        next(batches)


def test_memory_stays_flat(small, either):
    batches = make(small).train()
    for _ in range(200):
        next(batches)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(800):
        next(batches)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4096  # KiB
    batches.close()


@pytest.mark.parametrize(
    "options,message",
    [
        (dict(channels=2), "channels is 2"),
        (dict(image_size=(0, 5)), "a canvas is (0, 5)"),
        (dict(buckets=((5,),)), "a canvas is (5,)"),
        (dict(max_instances=0), "max_instances is 0"),
        (dict(workers=0), "workers is 0"),
        (dict(transforms=(3,)), "int is no host transform"),
    ],
)
def test_mistakes_are_named(small, options, message):
    with pytest.raises(SetupError) as error:
        make(small, **options)
    assert message in str(error.value)
