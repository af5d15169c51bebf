"""ShuffleNet v2: torchvision's."""

from jaxvision.backbones import shufflenet_v2
from tests.parity.references.reference import Reference, from_torchvision

LEVELS = {"c1": "conv1", "c2": "maxpool", "c3": "stage2", "c4": "stage3", "c5": "stage4"}

REFERENCES = {
    name: Reference(from_torchvision(name), "shufflenet_v2", LEVELS, "torchvision") for name in shufflenet_v2.SIZES
}

TORCHVISION = r"shufflenet_v2_x\d_\d"

SMALLEST = ("shufflenet_v2_x0_5",)
