"""What the parity tests of segmenters share: a golden fixture of OpenMMLab beside our model, and the comparisons.

@pytest.fixture(scope="module")
def openmmlab(tmp_path_factory):
    return Semantic.run("mmseg_fcn_r50-d8", "fcn", tmp_path_factory.mktemp("weights"), num_classes=19)
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxvision.config import build
from jaxvision.losses.pixels import CrossEntropy
from jaxvision.pretrained import keymaps
from jaxvision.segmentation.segmentor import labels_of
from jaxvision.segmentation.task import SemanticSegmentationTask
from jaxvision.trees import flatten
from tests.conftest import quickly_compiled, strict
from tests.parity.torch_weights import load, load_golden, nchw, nhwc

LOSSES = (CrossEntropy(count_ignored=True),)
"""OpenMMLab divides by the number of all pixels."""


@functools.partial(jax.jit, static_argnums=0)
def levels_of(backbone, variables, images):
    """Levels of a backbone that several models share: one program."""
    own = {name: tree["backbone"] for name, tree in variables.items() if "backbone" in tree}
    return backbone.apply(own, images, train=False)


def heads(model, levels):
    return {"logits": model.decode(levels, train=False), "auxiliary": model.assist(levels, train=False)}


heads_of = jax.jit(lambda model, variables, levels: model.apply(variables, levels, method=heads), static_argnums=0)
"""Logits of the head, and those of the auxiliary heads in evaluation mode, as the fixtures have them."""


def run(model, variables, images):
    """Levels and logits."""
    with strict(), quickly_compiled():
        levels = levels_of(model.backbone, variables, images)
        return levels, heads_of(model, variables, levels)


@dataclasses.dataclass
class Semantic:
    """A fixture, and its comparisons with what our model says.

    Attributes:
      golden: the module that reads it.
      fixture: the fixture, of two images.
      model, variables: ours, with the fixture's weights.
      levels, outputs: of the model.
      full: logits of every pixel, as a task with `window` makes them.
      labels: the label maps that follow.
      terms: (sum, count) of each loss.
    """

    golden: Any
    fixture: Any
    model: Any
    variables: Any
    levels: Any
    outputs: Any
    full: Any
    labels: Any
    terms: Any

    @classmethod
    def run(cls, name, model, folder, *, source="openmmlab", window=None, window_stride=None, **fields):
        """The fixture `name`, and a registered model with these fields; `folder` gets its weights."""
        golden, fixture = load_golden(name)
        model = build("model", {"name": model, **fields}).clone(losses=LOSSES)
        variables = load(model, golden.state_dict(fixture), folder / "weights.pth", source=source)
        task = SemanticSegmentationTask(model, window=window, window_stride=window_stride)
        images = nhwc(golden.inputs(fixture))
        truth = jnp.asarray(np.stack([fixture.gt[f"{i}/sem_seg"] for i in range(len(images))]))
        batch = {"semantic": truth, "valid": jnp.ones(len(images), bool), "image": images}

        @jax.jit
        def rest(variables, outputs, batch):
            size = images.shape[1:3]
            full = model.logits(outputs, size) if window is None else task.logits(variables, batch["image"])
            labels = model.predict(outputs, size) if window is None else labels_of(full)
            return full, labels, model.loss(outputs, batch)

        levels, outputs = run(model, variables, images)
        with strict(), quickly_compiled():
            return cls(golden, fixture, model, variables, levels, outputs, *rest(variables, outputs, batch))

    def compare(self, base=None, skip=()):
        """Levels of the backbone, the head, the auxiliary heads, and logits at full size."""
        ours = {f"backbone/{i}": nchw(x) for i, x in enumerate(self.levels.values())}
        ours |= {"head": nchw(self.outputs["logits"]), "seg_logits": nchw(self.full)}
        ours |= {f"aux{i}": nchw(x) for i, x in enumerate(self.outputs["auxiliary"])}
        assert set(ours) - set(skip) == set(self.fixture.output_shapes) - set(skip)
        for name in sorted(set(ours) - set(skip)):
            options = {} if base is None else {"base": base}
            allowed = self.golden.tolerance(self.fixture, name, **options)
            difference = self.golden.compare(self.fixture, name, ours[name])
            print(name, f"{difference:.1e}", f"allowed {allowed:.1e}")
            assert difference <= allowed, name

    def compare_labels(self):
        assert self.fixture.preds_stable
        for i, labels in enumerate(np.asarray(self.labels)):
            same = (labels == self.fixture.preds[f"{i}/sem_seg"]).mean()
            print("pixels that are equal", same)
            assert same >= 0.998

    def compare_losses(self, names=None, rtol=1e-4):
        """`names`: our term -> the name of theirs."""
        names = names or {"cross_entropy": "decode.loss_ce", "auxiliary_cross_entropy": "aux.loss_ce"}
        names = {ours: theirs for ours, theirs in names.items() if theirs in self.fixture.losses}
        assert set(self.terms) == set(names)
        for ours, theirs in names.items():
            total, count = self.terms[ours]
            print(ours, float(total / count), self.fixture.losses[theirs])
            np.testing.assert_allclose(total / count, self.fixture.losses[theirs], rtol=rtol)

    def compare_names(self, table):
        """What is written under the names of a table is what was read."""
        written = keymaps.to_state_dict(flatten(self.variables), keymaps.family_of(self.model).keys[table])
        state = self.golden.state_dict(self.fixture)
        wanted = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
        assert set(written) == set(wanted)
        for name, value in wanted.items():
            np.testing.assert_array_equal(written[name], value, err_msg=name)
