"""Host transforms against torchvision's on PIL images: evaluation crops to the pixel, random ones by their rule."""

import importlib
import sys

import numpy as np
import pytest
from PIL import Image

from jaxvision.data.images import read_image
from jaxvision.data.order import sample_rng
from jaxvision.data.prepare import prepare
from jaxvision.data.transforms import CenterCrop, IouCrop, RandomResizedCrop, Resize, ResizeSide, View

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def v2(request):
    try:
        import torchvision  # noqa: F401
    except RuntimeError:  # beside the CPU build of torch it lacks its compiled operators
        root = __import__("os").environ.get("JAXVISION_TEST_DATA")
        if not root:
            pytest.skip("torchvision does not load, and JAXVISION_TEST_DATA is not set")
        sys.path.append(f"{root}/parity")
        importlib.import_module("torchvision_cpu")
    from torchvision.transforms import v2

    return v2


def compared(image, ours, theirs, canvas):
    sample = prepare(image, None, ours, sample_rng(0, 0), canvas=canvas)
    expected = np.asarray(theirs(Image.fromarray(image)))
    height, width = sample["size"].astype(int)
    assert expected.shape == (height, width, 3)
    return np.abs(sample["image"][:height, :width].astype(int) - expected)


@pytest.mark.parametrize("size", [(375, 500), (640, 480), (256, 256), (257, 300), (100, 70), (1000, 231)])
def test_evaluation_crops_equal_torchvision(v2, size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    theirs = v2.Compose([v2.Resize(256), v2.CenterCrop(224)])
    difference = compared(image, (ResizeSide(256), CenterCrop((224, 224))), theirs, (224, 224))
    assert difference.max() <= 1


@pytest.mark.parametrize("size", [(375, 500), (640, 480), (100, 70)])
def test_bicubic_evaluation_crops_equal_torchvision(v2, size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    cubic = v2.InterpolationMode.BICUBIC
    theirs = v2.Compose([v2.Resize(256, cubic), v2.CenterCrop(224)])
    ours = (ResizeSide(256, interpolation="bicubic"), CenterCrop((224, 224)))
    assert compared(image, ours, theirs, (224, 224)).max() <= 1
    theirs, ours = v2.Resize((96, 120), cubic), (Resize((96, 120), interpolation="bicubic"),)
    assert compared(image, ours, theirs, (96, 120)).max() <= 1


def test_evaluation_crops_of_photographs_equal_torchvision(v2, test_data):
    theirs = v2.Compose([v2.Resize(256), v2.CenterCrop(224)])
    for path in sorted((test_data / "data/coco_mini/images/val2017").glob("*.jpg"))[:8]:
        image = read_image(path)
        difference = compared(image, (ResizeSide(256), CenterCrop((224, 224))), theirs, (224, 224))
        assert difference.max() <= 1 and difference.mean() < 0.3


@pytest.mark.parametrize("size", [(375, 500), (300, 1000), (640, 480)])
def test_detectors_sizes_equal_torchvision(v2, size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    assert compared(image, (ResizeSide(800, 1333),), v2.Resize(800, max_size=1333), (1333, 1333)).max() <= 1


def test_a_crop_beyond_the_image_equals_torchvision(v2):
    image = np.random.default_rng(0).integers(0, 256, (50, 301, 3), np.uint8)
    assert not compared(image, (CenterCrop((100, 200)),), v2.CenterCrop((100, 200)), (100, 200)).any()
    assert compared(image, (Resize((60, 90)),), v2.Resize((60, 90)), (60, 90)).max() <= 1


def quantiles(values):
    return np.quantile(np.asarray(values, float), [0.1, 0.3, 0.5, 0.7, 0.9], axis=0)


def test_random_resized_crops_are_distributed_as_torchvisions(v2):
    import torch

    torch.manual_seed(0)
    crop, image = v2.RandomResizedCrop(224), Image.new("RGB", (640, 480))
    sides = ("left", "top", "width", "height")
    theirs = [[params[side] for side in sides] for params in (crop.make_params([image]) for _ in range(2000))]
    ours = []
    for seed in range(2000):
        view, _ = RandomResizedCrop().plan(View.whole((480, 640), (224, 224)), {}, sample_rng(seed, 0))
        left, top, right, bottom = view.window
        ours.append([left, top, right - left, bottom - top])
    np.testing.assert_allclose(quantiles(ours), quantiles(theirs), atol=30)


def test_iou_crops_are_distributed_as_torchvisions(v2):
    import torch
    from torchvision import tv_tensors

    torch.manual_seed(0)
    box = [[200.0, 150, 420, 330]]
    sample = [Image.new("RGB", (640, 480)), tv_tensors.BoundingBoxes(box, format="XYXY", canvas_size=(480, 640))]
    crop, theirs, ours = v2.RandomIoUCrop(), [], []
    for seed in range(800):
        params = crop.make_params(sample)
        theirs.append([params.get(k, d) for k, d in (("left", 0), ("top", 0), ("width", 640), ("height", 480))])
        plan = View.whole((480, 640), (300, 300)), {"boxes": np.array(box, np.float32)}
        left, top, right, bottom = IouCrop().plan(*plan, sample_rng(seed, 0))[0].window
        ours.append([left, top, right - left, bottom - top])
    np.testing.assert_allclose(quantiles(ours), quantiles(theirs), atol=50)
