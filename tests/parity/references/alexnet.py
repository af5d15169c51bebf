"""AlexNet: torchvision's."""

from tests.parity.references.reference import Reference, from_torchvision

LEVELS = {"c2": "<features.2", "c3": "<features.5", "c4": "<features.12", "c5": "features.12"}

REFERENCES = {"alexnet": Reference(from_torchvision("alexnet"), "alexnet", LEVELS, "torchvision")}

TORCHVISION = "alexnet"
