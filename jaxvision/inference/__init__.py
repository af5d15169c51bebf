"""Image in, prediction and picture out: `Inferencer` runs a trained task on files, arrays, videos and cameras.

    infer = Inferencer("runs/lenet5_digits")          # a workdir: config, class names and weights
    result = infer("seven.png")
    result.json["class"], result.found.names, result.save("prediction.png")
    for result in infer.iterate("street.mp4"): ...    # or infer.iterate(0), a camera

From a workdir plain data are read (`config.json`, `meta.json`, a checkpoint) and no Python is executed; modules that
its config names in `imports` are imported from elsewhere on the path, and refused if they lie in the workdir. One
program is compiled, for a fixed batch that the last images fill up with padding.
"""

from jaxvision.inference.inferencer import Inferencer, Result
from jaxvision.inference.inputs import Input, expand
from jaxvision.inference.model import inference_model, init_model, show_result_pyplot
from jaxvision.inference.saving import Saver
from jaxvision.inference.videos import Camera, Video, VideoError

__all__ = [
    "Camera",
    "Inferencer",
    "Input",
    "Result",
    "Saver",
    "Video",
    "VideoError",
    "expand",
    "inference_model",
    "init_model",
    "show_result_pyplot",
]
