"""Random weights as sharp as trained ones, for networks of norms, linear layers and tiny initial values."""

import torch


@torch.no_grad()
def enliven(model: torch.nn.Module) -> None:
    """Draws what initialisation leaves at 1, 0 or nearly 0, so that each parameter tells on the outputs.

    Kernels get the spread that keeps a signal's size, norms scales and biases of their own (else a swap of two norms
    would pass), biases and layer scales a telling size.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            module.weight *= module.weight[0].numel() ** -0.5 / module.weight.std()
            if module.bias is not None:
                module.bias.normal_(0, 0.1)
        elif isinstance(module, torch.nn.LayerNorm):
            module.weight.uniform_(0.7, 1.3)
            module.bias.normal_(0, 0.2)
    for name, parameter in model.named_parameters():
        if name.endswith(("gamma", "layer_scale", "layer_scale_parameter", "grn.weight")):
            parameter.uniform_(0.1, 0.6)
        elif name.endswith("grn.bias"):
            parameter.normal_(0, 0.1)
