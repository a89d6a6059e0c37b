"""Post-hoc detectors of pytorch-ood (Kirchheim et al. 2022) on the closed-set model.

Features (the pooled last feature map) are computed once per closed-set model and shared by the whole family. Only
ODIN runs the network again, for gradients of the images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from open_set_fer.errors import SuiteError
from open_set_fer.methods.contract import Context, Detection, OpenSetTask, Scorer, Scores
from open_set_fer.methods.shared.lazy import backbones, nn, torch, training
from open_set_fer.ranges import Count, CountOrZero, NotNegative, Positive, Share

DetectorName = Literal[
    "max_logit", "energy", "entropy", "openmax", "mahalanobis", "relative_mahalanobis", "knn", "vim", "react",
    "kl_matching", "she", "dice", "odin",
]  # fmt: skip


@dataclass(frozen=True, eq=False)
class PostHocScorer(Scorer):
    """A detector of pytorch-ood on the network `classifier`, refitted on saved features.

    settings: those of `PostHoc`. arrays: `features` (M, D) and `labels` (M,) of the training images, if it is fitted.
    """

    def score(self, images: NDArray[np.uint8]) -> Scores:
        """Score as `PostHoc.detect` does."""
        network, method = self.networks["classifier"], PostHoc(**self.settings)
        probabilities = training.softmax(training.evaluate(network, images))
        if method.detector == "odin":
            return Scores(method._odin(_pytorch_ood(), network, images), probabilities)
        is_fed_logits = _kind(self._fitted) == "logits"
        inputs = (training.evaluate if is_fed_logits else training.pooled_features)(network, images)
        with method._naming_faults():
            return Scores(method._predict(self._fitted, inputs), probabilities)

    @cached_property
    def _fitted(self) -> Any:
        method, head = PostHoc(**self.settings), _head(self.networks["classifier"])
        with method._naming_faults():
            detector = method._detector(_pytorch_ood(), head)
            if detector.requires_fit:
                method._fit(detector, head, self.arrays["features"], self.arrays["labels"])
        return detector


@dataclass(frozen=True)
class PostHoc:
    """Post-hoc detector: s = its outlier score, with pytorch-ood's sign (higher = unknown).

    max_logit and kl_matching (Hendrycks et al. 2022), energy (Liu et al. 2020), entropy (of the softmax), openmax
    (Bendale and Boult 2016), mahalanobis (Lee et al. 2018, last layer, no input preprocessing), relative_mahalanobis
    (Ren et al. 2021), knn (Sun et al. 2022, unit-length features), vim (Wang et al. 2022), react (Sun et al. 2021),
    she (Zhang et al. 2023), dice (Sun and Li 2022), odin (Liang et al. 2018).
    """

    name = "posthoc"
    version = 1
    scorer = PostHocScorer

    detector: DetectorName = "energy"
    """Hyperparameters of the other detectors have no effect."""
    energy_temperature: Positive = 1.0
    """The paper's."""
    openmax_tail: Annotated[Count, Field(ge=2)] = 20
    """Largest training distances of a class, to which the Weibull is fitted (authors' code, abhijitbendale/OSDN)."""
    openmax_alpha: Count = 10
    """Top classes whose logits are revised, at most K (from the same code)."""
    knn_k: Count = 50
    """The paper's for CIFAR-10."""
    vim_dimension: CountOrZero = 0
    """Dimension of the principal space; 0: half of the features' (paper: 1000 of 2048, 512 of 768)."""
    react_percentile: Share = 0.9
    """Fraction of training activations below the clip (the paper's)."""
    dice_p: Share = 0.9
    """Fraction of dropped weights (the paper's for CIFAR)."""
    odin_temperature: Positive = 1000.0
    """The paper's for CIFAR-10."""
    odin_epsilon: NotNegative = 0.0014
    """Step in pixels on the 0-1 scale (the paper's for CIFAR-10)."""

    def detect(self, task: OpenSetTask, context: Context) -> Detection:
        """Fit the detector on the training images and score the test images.

        Raises SuiteError if pytorch-ood is missing, if the training images do not suit the detector (fewer than knn_k,
        too few correctly classified images of a class), and for scores that are not finite.
        """
        library = _pytorch_ood()
        model = context.closed_set_model(task)
        arrays: dict[str, NDArray[Any]] = {}
        with context.phase("train"):
            if self.detector == "odin":
                score = self._odin(library, model.network, task.test_images)
            else:
                with self._naming_faults():
                    head = _head(model.network)
                    detector = self._detector(library, head)
                    if detector.requires_fit:
                        arrays = {"features": context.features(task)[0], "labels": task.train_labels}
                        self._fit(detector, head, arrays["features"], arrays["labels"])
                    # Read the logits only if needed: they follow the pseudo-label setting, features do not.
                    is_fed_logits = _kind(detector) == "logits"
                    score = self._predict(detector, model.test_logits if is_fed_logits else context.features(task)[1])
        if not np.isfinite(score).all():
            raise self._error(f"{np.sum(~np.isfinite(score))} of {len(score)} scores are not finite")
        # Classes from the images alone, as scores of features are, whatever the pseudo labels.
        scorer = PostHocScorer({"classifier": model.network}, arrays, dataclasses.asdict(self))
        return Detection(score, model.predictions, network=model.network, scorer=scorer)

    def _fit(
        self, detector: Any, head: nn.Linear, features: NDArray[np.float32], train_labels: NDArray[np.int64]
    ) -> None:
        """Fit on training features, in float64."""
        train, labels = training.as_tensor(features).double(), training.as_tensor(train_labels)
        correct = self._correct(head(train), labels)
        if _kind(detector) == "logits":
            train = head(train)
        if self.detector == "openmax":  # as published; SHE does it by itself
            train, labels = train[correct], labels[correct]
        with self._default_type():
            getattr(detector, f"fit_{_kind(detector)}")(train, labels)

    def _predict(self, detector: Any, inputs: NDArray[np.float32]) -> NDArray[np.float64]:
        """Outlier scores (N,) of logits or features, in float64."""
        with self._default_type():
            # In pieces: DICE holds (piece, K, D) at once.
            pieces = torch.split(training.as_tensor(inputs).double(), 1024)
            predict = getattr(detector, f"predict_{_kind(detector)}")
            return np.asarray(torch.cat([predict(piece).double() for piece in pieces]))

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

    def _detector(self, library: Any, head: nn.Linear) -> Any:
        """Build the detector without a model; `head`: the linear layer, if it needs one."""
        if self.detector == "vim":
            dimension = self.vim_dimension or head.in_features // 2
            if not 0 < dimension < head.in_features:
                raise self._error(f"vim_dimension {dimension} is not between 1 and {head.in_features - 1}")
            return library.ViM(None, dimension, head.weight, head.bias)
        build = {
            "max_logit": lambda: library.MaxLogit(None),
            "energy": lambda: library.EnergyBased(None, self.energy_temperature),
            "entropy": lambda: library.Entropy(None),
            "openmax": lambda: library.OpenMax(None, self.openmax_tail, self.openmax_alpha),
            "kl_matching": lambda: library.KLMatching(None),
            "mahalanobis": lambda: library.Mahalanobis(None),
            "relative_mahalanobis": lambda: library.RMD(None),
            "knn": lambda: library.KNN(None, self.knn_k),
            "react": lambda: library.ReAct(None, head, percentile=self.react_percentile),
            "she": lambda: library.SHE(None, head),
            "dice": lambda: library.DICE(None, head.weight, head.bias, self.dice_p),
        }
        return build[self.detector]()

    def _correct(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Mask (M,) of correctly classified training images; SuiteError if there are too few."""
        correct = logits.argmax(dim=1) == labels
        needs_correct = self.detector in ("openmax", "she")
        for k in range(logits.shape[1]):
            usable = (labels == k) & correct if needs_correct else labels == k
            if usable.sum() < 2:
                kind = "correctly classified " * needs_correct
                raise self._error(f"class {k} has fewer than two {kind}training images")
        return correct

    def _odin(self, library: Any, network: backbones.Network, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Score by -max softmax at the temperature, images moved towards their predicted class."""
        network.eval()
        detector = library.ODIN(
            lambda x: network(x).double(),  # at temperature 1000 float32 would make ties
            eps=self.odin_epsilon,
            temperature=self.odin_temperature,
            norm_std=network.std.flatten().tolist(),
        )
        pieces = torch.split(training.as_tensor(images), 256)
        return np.asarray(torch.cat([detector.predict(network.prepare(piece)).cpu() for piece in pieces]))

    def _error(self, message: str) -> SuiteError:
        fix = "change the detector's settings, train the closed-set model longer, or leave this detector out"
        return SuiteError(f"posthoc detector {self.detector}: {message}", fix)


def _head(network: backbones.Network) -> nn.Linear:
    """Copy of the linear layer, in float64 on the CPU."""
    return deepcopy(network.fc).double().cpu().requires_grad_(False)


def _kind(detector: Any) -> str:
    """Input of a detector.

    ReAct's feature maps may have any shape: pooled features are the paper's penultimate layer.
    """
    return next(kind for kind in ("logits", "features", "feature_maps") if hasattr(detector, f"predict_{kind}"))


def _pytorch_ood() -> Any:
    """Import pytorch-ood's detectors: an optional dependency, and it takes seconds."""
    try:
        from pytorch_ood import detector
    except ImportError as error:
        raise SuiteError(
            f"method posthoc needs pytorch-ood ({error})", "pip install 'open-set-fer[posthoc]'"
        ) from error
    return detector
