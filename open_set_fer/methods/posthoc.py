"""Post-hoc detectors of pytorch-ood (Kirchheim et al. 2022) on the closed-set model.

Features (the pooled last feature map) are computed once per closed-set model and shared by the whole family. Only
ODIN and RankFeat run the network again: for gradients of the images, and for the last feature map itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from open_set_fer.errors import SuiteError
from open_set_fer.methods.contract import Context, Detection, OpenSetTask, Scorer, Scores
from open_set_fer.methods.shared.lazy import backbones, nn, torch, training
from open_set_fer.methods.shared.posthoc_detectors import DETECTORS, DetectorName, Entry, Parts
from open_set_fer.ranges import Count, CountOrZero, NotNegative, Positive, Share


@dataclass(frozen=True, eq=False)
class PostHocScorer(Scorer):
    """A detector of pytorch-ood on the network `classifier`, refitted on saved features.

    settings: those of `PostHoc`. arrays: `features` (M, D) and `labels` (M,) that it is fitted on, if it is.
    """

    def score(self, images: NDArray[np.uint8]) -> Scores:
        """Score as `PostHoc.detect` does."""
        network, method = self.networks["classifier"], PostHoc(**self.settings)
        logits = training.evaluate(network, images)
        with method._naming_faults():
            if method._entry.fed == "images":
                score = method._predict_images(self._fitted, network, images)
            else:
                is_fed_logits = method._entry.fed == "logits"
                inputs = logits if is_fed_logits else training.pooled_features(network, images)
                score = method._predict(self._fitted, inputs)
        return Scores(score, training.softmax(logits))

    @cached_property
    def _fitted(self) -> Any:
        method = PostHoc(**self.settings)
        with method._naming_faults():
            return method._fitted(self.networks["classifier"], self.arrays.get("features"), self.arrays.get("labels"))


@dataclass(frozen=True)
class PostHoc:
    """Post-hoc detector: s = its outlier score, with pytorch-ood's sign (higher = unknown).

    Of the logits: max_logit and kl_matching (Hendrycks et al. 2022), energy (Liu et al. 2020), entropy (of the
    softmax), gen (Liu et al. 2023), temperature_scaling (Guo et al. 2017), openmax (Bendale and Boult 2016).
    Of the features and the linear layer: mahalanobis (Lee et al. 2018, last layer, no input preprocessing),
    relative_mahalanobis (Ren et al. 2021), gmm (a Gaussian a class, Mukhoti et al. 2023), knn (Sun et al. 2022,
    unit-length features), nnguide (Park et al. 2023), vim (Wang et al. 2022), react (Sun et al. 2021), vra (Xu et al.
    2023), ash (ASH-S, Djurisic et al. 2023), scale (Xu et al. 2024), lts (Djurisic et al. 2025), she (Zhang et al.
    2023), dice (Sun and Li 2022), fdbd (Liu and Qin 2024), nci (Liu and Qin 2025), pnml (Bibas et al. 2021), gradnorm
    (Huang et al. 2021) and grad_uncertainty (Lee and AlRegib 2020, the linear layer's gradients).
    Of the images: odin (Liang et al. 2018), rankfeat (Song et al. 2022, last feature map).
    """

    name = "posthoc"
    version = 2
    scorer = PostHocScorer

    detector: DetectorName = "energy"
    """Hyperparameters of the other detectors have no effect."""
    energy_temperature: Positive = 1.0
    """The paper's."""
    gen_gamma: Positive = 0.1
    """Exponent (the paper's); all classes count."""
    openmax_tail: Annotated[Count, Field(ge=2)] = 20
    """Largest training distances of a class, to which the Weibull is fitted (authors' code, abhijitbendale/OSDN)."""
    openmax_alpha: Count = 10
    """Top classes whose logits are revised, at most K (from the same code)."""
    knn_k: Count = 50
    """The paper's for CIFAR-10."""
    nnguide_k: Count = 10
    """Nearest training images (the paper's for ImageNet)."""
    vim_dimension: CountOrZero = 0
    """Dimension of the principal space; 0: half of the features' (paper: 1000 of 2048, 512 of 768)."""
    react_percentile: Share = 0.9
    """Fraction of training activations below the clip (the paper's)."""
    vra_lower: Share = 0.6
    """Fraction of training activations that become zero (within the range that the paper searches)."""
    vra_upper: Share = 0.95
    """Fraction of training activations below the clip (within the range that the paper searches)."""
    ash_percentile: Share = 0.9
    """Fraction of an image's activations that become zero (the paper's ASH-S for ImageNet)."""
    scale_percentile: Share = 0.85
    """Fraction of an image's activations left out of the denominator of its scale (the paper's for ImageNet)."""
    lts_share: Share = 0.05
    """Fraction of an image's activations in the denominator of its scale (the paper's)."""
    dice_p: Share = 0.9
    """Fraction of dropped weights (the paper's for CIFAR)."""
    nci_alpha: NotNegative = 0.0
    """Weight of the features' L1 norm; the paper chooses it with open images, which no method here sees."""
    odin_temperature: Positive = 1000.0
    """The paper's for CIFAR-10."""
    odin_epsilon: NotNegative = 0.0014
    """Step in pixels on the 0-1 scale (the paper's for CIFAR-10)."""

    def detect(self, task: OpenSetTask, context: Context) -> Detection:
        """Fit the detector and score the test images, and the held-out faces where the task has some.

        Raises SuiteError if pytorch-ood is missing, if the training images do not suit the detector (fewer than knn_k,
        too few correctly classified images of a class), and for scores that are not finite.
        """
        model, entry = context.closed_set_model(task), self._entry
        with context.phase("train"), self._naming_faults():
            arrays, notes = self._material(task, context)
            fitted = self._fitted(model.network, arrays.get("features"), arrays.get("labels"))
            held_out = None
            if entry.fed == "images":
                score = self._predict_images(fitted, model.network, task.test_images)
            else:
                # Read the logits only if needed: they follow the pseudo-label setting, features do not.
                score = self._predict(fitted, model.test_logits if entry.fed == "logits" else context.features(task)[1])
                if (features := context.held_out_features(task)) is not None:
                    is_fed_logits = entry.fed == "logits"
                    inputs = training.head_logits(model.network, features) if is_fed_logits else features
                    held_out = self._predict(fitted, inputs)
        if not np.isfinite(score).all():
            raise self._error(f"{np.sum(~np.isfinite(score))} of {len(score)} scores are not finite")
        # Classes from the images alone, as scores of features are, whatever the pseudo labels.
        scorer = PostHocScorer({"classifier": model.network}, arrays, dataclasses.asdict(self))
        return Detection(
            score, model.predictions, notes=notes, network=model.network, scorer=scorer, held_out_score=held_out
        )

    @property
    def _entry(self) -> Entry:
        return DETECTORS[self.detector]

    def _material(self, task: OpenSetTask, context: Context) -> tuple[dict[str, NDArray[Any]], list[str]]:
        """Features (M, D) and labels (M,) that the detector is fitted on, and what a reader must know of them."""
        if not self._entry.fitted_on:
            return {}, []
        if self._entry.fitted_on == "held_out":
            features, labels = context.held_out_features(task), task.held_out_labels
            if features is not None and labels is not None:
                return {"features": features, "labels": labels}, []
            notes = [f"{self.detector} is fitted on the training images: the data set holds no closed faces out"]
        else:
            notes = []
        return {"features": context.features(task)[0], "labels": task.train_labels}, notes

    def _fitted(
        self, network: backbones.Network, features: NDArray[np.float32] | None, labels: NDArray[np.int64] | None
    ) -> Any:
        """Build the detector and fit it on features (M, D) and labels (M,), if it is fitted."""
        entry, head = self._entry, self._head(network)
        detector = entry.build(Parts(_pytorch_ood(), self, head, network))
        if features is None or labels is None:
            return detector
        rows, of = training.as_tensor(features).to(self._type), training.as_tensor(labels)
        logits = head(rows)
        if entry.fitted_on != "held_out":
            correct = self._correct(logits, of)
            if entry.fitted_on == "correct":
                rows, of, logits = rows[correct], of[correct], logits[correct]
        with self._default_type():
            getattr(detector, f"fit_{entry.fed}")(logits if entry.fed == "logits" else self._shaped(rows), of)
        return detector

    def _predict(self, detector: Any, inputs: NDArray[Any]) -> NDArray[np.float64]:
        """Outlier scores (N,) of logits or features."""
        predict = getattr(detector, self._entry.predict or f"predict_{self._entry.fed}")
        with self._default_type():
            # In pieces: DICE holds (piece, K, D) at once, NNGuide (piece, M), whose time is half of that at 1,024.
            pieces = torch.split(training.as_tensor(inputs).to(self._type), 256)
            return np.asarray(torch.cat([predict(self._shaped(piece)).detach().double() for piece in pieces]))

    def _predict_images(
        self, detector: Any, network: backbones.Network, images: NDArray[np.uint8]
    ) -> NDArray[np.float64]:
        """Outlier scores (N,) of images, which run through the network."""
        network.eval()
        pieces = torch.split(training.as_tensor(images), 256)
        scores = [detector.predict(network.prepare(piece)).detach().double().cpu() for piece in pieces]
        return np.asarray(torch.cat(scores))

    def _shaped(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows, or features as the maps of one pixel that pooled features are."""
        return rows[:, :, None, None] if self._entry.fed == "feature_maps" else rows

    @property
    def _type(self) -> torch.dtype:
        """Type of a detector's inputs: float64, or what the library computes in."""
        return torch.float32 if self._entry.single else torch.float64

    def _head(self, network: backbones.Network) -> nn.Linear:
        """Copy of the linear layer on the CPU, in the detector's type."""
        return deepcopy(network.fc).to("cpu", self._type).requires_grad_(False)

    @contextmanager
    def _default_type(self) -> Iterator[None]:
        """Set torch's default type, in which pytorch-ood's Mahalanobis keeps its means, to float64."""
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64 if self.detector.endswith("mahalanobis") else before)
        try:
            yield
        finally:
            torch.set_default_dtype(before)

    @contextmanager
    def _naming_faults(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
            raise self._error(str(error)) from error

    def _correct(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Mask (M,) of correctly classified training images; SuiteError if there are too few."""
        correct = logits.argmax(dim=1) == labels
        needs_correct = self._entry.fitted_on == "correct"
        for k in range(logits.shape[1]):
            usable = (labels == k) & correct if needs_correct else labels == k
            if usable.sum() < 2:
                kind = "correctly classified " * needs_correct
                raise self._error(f"class {k} has fewer than two {kind}training images")
        return correct

    def _error(self, message: str) -> SuiteError:
        fix = "change the detector's settings, train the closed-set model longer, or leave this detector out"
        return SuiteError(f"posthoc detector {self.detector}: {message}", fix)


def _pytorch_ood() -> Any:
    """Import pytorch-ood's detectors: an optional dependency, and it takes seconds."""
    try:
        from pytorch_ood import detector
    except ImportError as error:
        raise SuiteError(
            f"method posthoc needs pytorch-ood ({error})", "pip install 'open-set-fer[posthoc]'"
        ) from error
    return detector
