"""What the parity tests of detectors share: a golden fixture beside our model with its weights, and the comparisons.

    @pytest.fixture(scope="module")
    def openmmlab(tmp_path_factory):
        return Dense.run("mmdet_atss_r50_fpn", "atss", tmp_path_factory.mktemp("weights"))

A test then names what its heads return and what its losses are called; see `test_atss.py`.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxvision.config import build
from tests.conftest import strict
from tests.parity.detections import instances, rows, unmatched
from tests.parity.torch_weights import load, load_golden, nchw, nhwc

predict = jax.jit(lambda model, outputs, size: model.predict(outputs, size), static_argnums=0)
loss = jax.jit(lambda model, outputs, batch: model.loss(outputs, batch), static_argnums=0)


def levels_and_outputs(model, images):
    features = model.backbone(images, train=False)
    return features, model.neck(features), model(images)


call = jax.jit(
    lambda model, variables, images: model.apply(variables, images, method=levels_and_outputs), static_argnums=0
)


@dataclasses.dataclass
class Golden:
    """A fixture, and its comparisons with what our model says.

    Attributes:
      golden: the module that reads it.
      fixture: the fixture, of two images.
      model, variables: ours, with the fixture's weights.
    """

    golden: Any
    fixture: Any
    model: Any
    variables: Any

    @classmethod
    def read(cls, name, model, folder, **fields):
        """The fixture `name`, and a registered model with these fields and 80 classes; `folder` gets its weights."""
        golden, fixture = load_golden(name)
        model = build("model", {"name": model, "num_classes": 80, **fields})
        variables = load(model, golden.state_dict(fixture), folder / "weights.pth", source="openmmlab")
        return cls(golden, fixture, model, variables)

    @property
    def images(self):
        return nhwc(self.golden.inputs(self.fixture))

    @property
    def truth(self):
        """(boxes, labels) of each image."""
        return [(self.fixture.gt[f"{i}/bboxes"], self.fixture.gt[f"{i}/labels"]) for i in range(2)]

    @property
    def batch(self):
        size = jnp.asarray(self.fixture.input["valid"], jnp.float32)
        return {"targets": instances(self.truth), "size": size, "valid": jnp.ones(2, bool)}

    def compare(self, ours, whole=True):
        """Arrays in the reference's layout, by its names; `whole`: they are all that the fixture has."""
        assert not whole or set(ours) == set(self.fixture.output_shapes)
        for name, values in ours.items():
            difference = self.golden.compare(self.fixture, name, values)
            allowed = self.golden.tolerance(self.fixture, name)
            print(name, f"{difference:.1e}", f"allowed {allowed:.1e}")
            assert difference <= allowed, name

    def compare_detections(self, found):
        """`Detections` of both images; the fixture keeps the 50 best of each."""
        assert self.fixture.preds_stable
        for image in range(2):
            theirs = [self.fixture.preds[f"{image}/{name}"] for name in ("bboxes", "scores", "labels")]
            ours = rows(found, image)
            print(len(ours[0]), self.fixture.preds[f"{image}/count"], unmatched(ours, theirs))
            assert len(ours[0]) == self.fixture.preds[f"{image}/count"]
            assert (np.diff(ours[1]) <= 0).all()
            assert unmatched(ours, theirs) == 0

    def compare_losses(self, terms, names, rtol=1e-4):
        """`names`: our term -> how the names of theirs begin, which are added up."""
        assert set(terms) == set(names)
        for ours, theirs in names.items():
            total = sum(value for name, value in self.fixture.losses.items() if name.startswith(theirs))
            print(ours, float(terms[ours][0] / terms[ours][1]), total)
            np.testing.assert_allclose(terms[ours][0] / terms[ours][1], total, rtol=rtol)


def level_maps(features, pyramid):
    """Maps of a backbone and of a neck by the names of the fixtures."""
    ours = {f"backbone/{i}": nchw(x) for i, x in enumerate(features.values())}
    return ours | {f"neck/{i}": nchw(x) for i, x in enumerate(pyramid.values())}


def maps(values, pyramid, head="head"):
    """What heads say of the cells of each level, as maps by the names of the fixtures.

    Args:
      values: of each of the head's outputs, in the order of the reference, an array [B, N, ...] of each level.
    """
    return {
        f"{head}/{k}/{i}": nchw(np.reshape(own, (*x.shape[:3], -1)))
        for k, of_levels in enumerate(values)
        for i, (own, x) in enumerate(zip(of_levels, pyramid.values(), strict=True))
    }


@dataclasses.dataclass
class Dense(Golden):
    """A detector without proposals.

    Attributes:
      features, pyramid: levels of the backbone and of the neck.
      outputs: of the model.
    """

    features: Any
    pyramid: Any
    outputs: Any

    @classmethod
    def run(cls, name, model, folder, **fields):
        own = Golden.read(name, model, folder, **fields)
        with strict():
            said = call(own.model, own.variables, own.images)
        return cls(own.golden, own.fixture, own.model, own.variables, *said)

    def compare_heads(self, *values):
        """Levels and heads; `values` as for `maps`, or names of outputs."""
        values = [self.outputs[one] if isinstance(one, str) else one for one in values]
        self.compare(level_maps(self.features, self.pyramid) | maps(values, self.pyramid))

    def compare_own_detections(self):
        with strict():
            self.compare_detections(predict(self.model, self.outputs, self.batch["size"]))

    def compare_own_losses(self, names):
        with strict():
            terms = loss(self.model, self.outputs, self.batch)
        self.compare_losses(terms, names)
