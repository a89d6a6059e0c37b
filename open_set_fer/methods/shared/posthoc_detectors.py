"""Table of the post-hoc detectors: how each is built, what it is fed, what it is fitted on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from open_set_fer.methods.shared.lazy import nn
from open_set_fer.methods.shared.own_detectors import VRA, OpenMax, TemperatureScaling

if TYPE_CHECKING:
    from open_set_fer.methods.shared.backbones import Network

DetectorName = Literal[
    "max_logit", "energy", "entropy", "gen", "temperature_scaling", "kl_matching", "openmax", "mahalanobis",
    "relative_mahalanobis", "gmm", "knn", "nnguide", "vim", "react", "vra", "ash", "scale", "lts", "she", "dice",
    "fdbd", "nci", "pnml", "gradnorm", "grad_uncertainty", "odin", "rankfeat",
]  # fmt: skip


class Parts(NamedTuple):
    """What a detector is built from: module pytorch_ood.detector, a `PostHoc`, copy of the linear layer, network."""

    library: Any
    settings: Any
    head: nn.Linear
    network: Network


@dataclass(frozen=True)
class Entry:
    """One detector.

    fed: logits; pooled features; the same as maps of one pixel; or images, which run through the network again.
    fitted_on: '': not fitted; 'train': the training images; 'correct': the correctly classified ones; 'held_out': the
    closed faces that the data set holds out.
    single: pytorch-ood computes in float32 itself, so that its inputs must be.
    predict: name of the method that scores; '': `predict_` and what it is fed.
    """

    fed: Literal["logits", "features", "feature_maps", "images"]
    build: Callable[[Parts], Any]
    fitted_on: Literal["", "train", "correct", "held_out"] = ""
    single: bool = False
    predict: str = ""


def _vim(parts: Parts) -> Any:
    head, dimension = parts.head, parts.settings.vim_dimension or parts.head.in_features // 2
    if not 0 < dimension < head.in_features:
        raise ValueError(f"vim_dimension {dimension} is not between 1 and {head.in_features - 1}")
    return parts.library.ViM(None, dimension, head.weight, head.bias)


def _odin(parts: Parts) -> Any:
    network, settings = parts.network, parts.settings
    return parts.library.ODIN(
        lambda x: network(x).double(),  # at temperature 1000 float32 would make ties
        eps=settings.odin_epsilon,
        temperature=settings.odin_temperature,
        norm_std=network.std.flatten().tolist(),
    )


def _rankfeat(parts: Parts) -> Any:
    network = parts.network
    return parts.library.RankFeat(
        lambda x: network.feature_map(x).contiguous(), lambda maps: network.fc(maps.mean(dim=(2, 3)))
    )


def _flat(head: nn.Linear) -> nn.Module:
    """The linear layer behind maps of one pixel."""
    return nn.Sequential(nn.Flatten(), head)


DETECTORS: dict[DetectorName, Entry] = {
    "max_logit": Entry("logits", lambda p: p.library.MaxLogit(None)),
    "energy": Entry("logits", lambda p: p.library.EnergyBased(None, p.settings.energy_temperature)),
    "entropy": Entry("logits", lambda p: p.library.Entropy(None)),
    "gen": Entry("logits", lambda p: p.library.GEN(None, p.settings.gen_gamma)),
    "temperature_scaling": Entry("logits", lambda p: TemperatureScaling(), "held_out"),
    "kl_matching": Entry("logits", lambda p: p.library.KLMatching(None), "held_out"),
    "openmax": Entry("logits", lambda p: OpenMax(p.settings.openmax_tail, p.settings.openmax_alpha), "correct"),
    "mahalanobis": Entry("features", lambda p: p.library.Mahalanobis(None), "train"),
    "relative_mahalanobis": Entry("features", lambda p: p.library.RMD(None), "train"),
    "gmm": Entry("features", lambda p: p.library.GMM(None), "train"),
    "knn": Entry("features", lambda p: p.library.KNN(None, p.settings.knn_k), "train"),
    "nnguide": Entry("features", lambda p: p.library.NNGuide(None, p.head, p.settings.nnguide_k), "train", single=True),
    "vim": Entry("features", _vim, "train"),
    "react": Entry(
        "feature_maps", lambda p: p.library.ReAct(None, _flat(p.head), percentile=p.settings.react_percentile), "train"
    ),
    "vra": Entry("features", lambda p: VRA(p.head, p.settings.vra_lower, p.settings.vra_upper), "train"),
    "ash": Entry("feature_maps", lambda p: p.library.ASH(None, _flat(p.head), "ash-s", p.settings.ash_percentile)),
    "scale": Entry("feature_maps", lambda p: p.library.SCALE(None, _flat(p.head), p.settings.scale_percentile)),
    "lts": Entry("features", lambda p: p.library.LTS(None, p.head, p.settings.lts_share)),
    "she": Entry("features", lambda p: p.library.SHE(None, p.head), "correct"),
    "dice": Entry("features", lambda p: p.library.DICE(None, p.head.weight, p.head.bias, p.settings.dice_p), "train"),
    "fdbd": Entry("features", lambda p: p.library.fDBD(None, p.head), "train", single=True),
    "nci": Entry("features", lambda p: p.library.NCI(None, p.head, p.settings.nci_alpha), "train", single=True),
    "pnml": Entry("features", lambda p: p.library.PNML(None, p.head), "train", single=True),
    "gradnorm": Entry(
        "features", lambda p: p.library.GradNorm(p.head, lambda name: name == "weight", 1024), predict="predict"
    ),
    "grad_uncertainty": Entry("features", lambda p: p.library.GradUncertainty(p.head), predict="predict"),
    "odin": Entry("images", _odin, predict="predict"),
    "rankfeat": Entry("images", _rankfeat, predict="predict"),
}
