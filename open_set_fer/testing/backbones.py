"""Conformance test of backbones."""

from __future__ import annotations

import torch

from open_set_fer.methods.shared.backbones import Network, build_network
from open_set_fer.methods.shared.recipe import BackboneSettings
from open_set_fer.testing.plugin import require


def check_backbone(name: str, classes: int = 5, channels: int = 3, size: int = 64) -> Network:
    """Assert that a backbone of a profile (`timm:NAME`, `package.module:function`) can be used; returns its network.

    SuiteErrors of a model that cannot be cut into stages pass through. Raises AssertionError naming the fault: logits
    of another shape or not finite, attention maps whose mean is not the logit, stages that cannot be entered, weights
    that the seed does not repeat, a part without gradient.
    """
    network = build_network(BackboneSettings(name), classes, channels, seed=1)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4, channels, size, size), generator=generator, dtype=torch.uint8)
    x = network.prepare(images)
    network.eval()
    with torch.no_grad():
        feature_map, logits = network.feature_map(x), network(x)
        require(logits.shape == (4, classes), f"logits have shape {tuple(logits.shape)}, not (4, {classes})")
        require(bool(logits.isfinite().all()), "logits are not finite")
        maps = torch.einsum("kd,ndhw->nkhw", network.fc.weight, feature_map).mean(dim=(2, 3)) + network.fc.bias
        require(torch.allclose(maps, logits, atol=1e-4), "the mean of an attention map is not the logit")
        for stage in range(len(network.stages) + 1):
            entered = network.classify(network.from_stage(network.to_stage(x, stage), stage))
            require(torch.allclose(entered, logits, atol=1e-4), f"entered after stage {stage} it gives other logits")
        again = build_network(BackboneSettings(name), classes, channels, seed=1)
        state, other = network.state_dict(), again.state_dict()
        require(all(torch.equal(state[key], other[key]) for key in state), "one seed gives two sets of weights")
    network.train()
    loss = torch.nn.functional.cross_entropy(network(x), torch.arange(4) % classes)
    torch.autograd.backward(loss)
    without = [key for key, parameter in network.named_parameters() if parameter.grad is None]
    require(not without, f"no gradient reaches {', '.join(without[:3])}")
    return network.eval()
