"""Display names of methods and data sets, as in their papers; an unknown label is displayed as typed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache

from open_set_fer import plugins
from open_set_fer.datasets.faceset import Facts, facts
from open_set_fer.errors import SuiteError

METHODS = {
    "baseline": "Baseline (MSP)", "max-logit": "MaxLogit", "label-loss": "Label loss",
    "small-loss": "Small loss", "label-frequency": "Label frequency", "eow": "EOW", "proser": "PROSER",
    "dias": "DIAS", "ours": "Ours", "ours-scratch": "Ours (from scratch)", "ours-online": "Ours (online)",
    "ours-balanced": "Ours (balanced)",
    "ours-attention-only": "Ours (attention only)", "ours-attention-resets": "Ours (attention, resets)",
    "ours-plus": "Ours-plus", "two-sample": "Two-sample probe", "energy": "Energy", "entropy": "Entropy",
    "openmax": "OpenMax", "mahalanobis": "Mahalanobis", "relative-mahalanobis": "Relative Mahalanobis", "knn": "KNN",
    "vim": "ViM", "react": "ReAct", "kl-matching": "KL matching", "she": "SHE", "dice": "DICE", "odin": "ODIN",
    "gen": "GEN", "temperature-scaling": "Temperature scaling", "gmm": "GMM", "nnguide": "NNGuide", "vra": "VRA",
    "ash": "ASH", "scale": "SCALE", "lts": "LTS", "fdbd": "fDBD", "nci": "NCI", "pnml": "pNML",
    "gradnorm": "GradNorm", "grad-uncertainty": "Gradient uncertainty", "rankfeat": "RankFeat",
    "o2u": "O2U-Net", "co-teaching": "Co-teaching", "cleanlab": "Cleanlab",
}  # fmt: skip
STAGES = "closed-set stages"
"""In the name of a method whose networks start from those of the closed-set model, where the paper's do not."""
LIMITS = {
    "ours-plus": "asks what sets the pool apart from the training faces, so it needs enough open faces in the pool; "
    "with too few, or where a shift of the pictures (blur, light, noise, crop) explains the difference, it is the "
    "energy, and a shift that it does not recognise looks unknown: `osfer study ours-plus` measures it",
    "two-sample": "takes whatever sets the pool apart from the training faces for unknown, shifts of the pictures too",
}
"""Footnotes on a method and its variants, by the method's label."""


def limit_notes(labels: Iterable[str]) -> list[str]:
    """Sentences on the methods with a limit among these labels, or with a variant among them."""
    shown = [f"{label}-" for label in labels]
    limits = LIMITS.items()
    return [f"{method_name(m)} {limit}." for m, limit in limits if any(name.startswith(f"{m}-") for name in shown)]


def method_name(label: str, params: Mapping[str, str] | None = None) -> str:
    """A method's label as displayed; params: of one of its runs, which tell what its networks start from.

    >>> method_name("ours-online", {"method.name": "ours", "method.pretrained_stages": "4"})
    'Ours (online, closed-set stages)'
    >>> method_name("my-model", {"method.name": "external"})
    'my-model (external)'
    """
    name = METHODS.get(label, label)
    if (params or {}).get("method.name") == "external":
        return f"{label} (external)"
    if int((params or {}).get("method.pretrained_stages", 0)) == 0:
        return name
    return f"{name[:-1]}, {STAGES})" if name.endswith(")") else f"{name} ({STAGES})"


def dataset_name(label: str) -> str:
    """A data set's label as displayed: the title of its class."""
    stated = _facts(label)
    return label if stated is None else stated.title


def origin_differs(label: str) -> bool:
    """Whether a data set's open train faces differ from its closed test faces by origin, by the fact of its class."""
    stated = _facts(label)
    return stated is not None and stated.origin_differs


@cache
def _facts(label: str) -> Facts | None:
    """Facts of a data set's class; None if it is not installed here, or broken: its results are shown all the same."""
    try:
        return facts(plugins.load(plugins.DATASETS, label))
    except SuiteError:
        return None
