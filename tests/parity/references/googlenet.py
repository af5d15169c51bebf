"""GoogLeNet: torchvision's, without the auxiliary classifiers."""

from tests.parity.references.reference import Reference, from_torchvision

LEVELS = {"c1": "conv1", "c2": "conv3", "c3": "inception3b", "c4": "inception4e", "c5": "inception5b"}
OPTIONS = {"aux_logits": False, "init_weights": False}

REFERENCES = {
    "googlenet": Reference(
        from_torchvision("googlenet", transform_input=True, **OPTIONS), "googlenet", LEVELS, "torchvision"
    )
}

TORCHVISION = "googlenet"

SMALLEST = ("googlenet",)
