"""Attention maps and their consistency under a horizontal flip (paper, Eq. 1-3)."""

from __future__ import annotations

import torch
from torch import Tensor


def attention_maps(feature_map: Tensor, fc_weight: Tensor) -> Tensor:
    """(N, K, h, w): for each class the channels of (N, D, h, w) weighted by its row of the classifier (K, D).

    The classifier's weight is detached: consistency trains the features, not the classifier. The spatial mean of a map
    plus the classifier's bias is the class's logit.
    """
    return torch.einsum("kd,ndhw->nkhw", fc_weight.detach(), feature_map)


def consistency_loss(maps: Tensor, maps_of_flipped: Tensor) -> Tensor:
    """Mean over (N, K, h, w) of (M(x) - flip(M(flip(x))))²: zero where attention follows the face."""
    return (maps - maps_of_flipped.flip(-1)).square().mean()
