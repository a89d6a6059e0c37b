"""Expressions as action units (AU) of the Facial Action Coding System.

Sources: Ekman, Friesen & Hager, Facial Action Coding System (2002) for what each AU moves and for the unilateral AUs
of contempt; Du, Tao & Martinez, Compound facial expressions of emotion, PNAS 111 (2014), Table 1, for the AUs of the
basic and compound expressions (fractions rounded from memory of that table, which is good enough for drawings); Li,
Deng & Du, RAF-DB (CVPR 2017) for the class order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from open_set_fer.datasets.faceset import BASIC, COMPOUND, CONTEMPT
from open_set_fer.datasets.synthetic.drawing import AU_STREAM, Float, bells, image_keys, uniforms

EXPRESSIONS = (*BASIC, *COMPOUND, CONTEMPT)
"""RAF-DB's seven basic expressions, its eleven compound ones, and contempt."""

AU_NAMES: tuple[str, ...] = (
    *("AU1", "AU2", "AU4", "AU5", "AU6", "AU7", "AU9", "AU10", "AU11", "AU12", "AU14", "AU15"),
    *("AU17", "AU20", "AU23", "AU24", "AU25", "AU26", "AU27"),
    # One side of the face only; the side is drawn per image.
    *("AU12 unilateral", "AU14 unilateral"),
)

ACTION_UNITS: dict[str, dict[str, float]] = {
    "surprise": {"AU1": 1.0, "AU2": 1.0, "AU5": 0.66, "AU25": 1.0, "AU26": 1.0},
    "fear": {"AU1": 1.0, "AU2": 0.57, "AU4": 1.0, "AU5": 0.63, "AU20": 1.0, "AU25": 1.0, "AU26": 0.33},
    "disgust": {"AU4": 0.31, "AU9": 1.0, "AU10": 1.0, "AU17": 1.0, "AU24": 0.26},
    "happiness": {"AU6": 0.51, "AU12": 1.0, "AU25": 1.0},
    "sadness": {"AU1": 0.60, "AU4": 1.0, "AU6": 0.50, "AU11": 0.26, "AU15": 1.0, "AU17": 0.67},
    "anger": {"AU4": 1.0, "AU7": 1.0, "AU10": 0.26, "AU17": 0.52, "AU23": 0.29, "AU24": 1.0},
    "neutral": {},
    "happily surprised": {"AU1": 1.0, "AU2": 1.0, "AU5": 0.64, "AU12": 1.0, "AU25": 1.0, "AU26": 0.67},
    "happily disgusted": {"AU4": 0.32, "AU6": 0.61, "AU9": 0.59, "AU10": 1.0, "AU12": 1.0, "AU25": 1.0},
    "sadly fearful": {"AU1": 1.0, "AU2": 0.46, "AU4": 1.0, "AU5": 0.24, "AU6": 0.34}
    | {"AU15": 0.30, "AU20": 1.0, "AU25": 1.0},
    "sadly angry": {"AU4": 1.0, "AU6": 0.26, "AU7": 0.48, "AU11": 0.20, "AU15": 1.0, "AU17": 0.50},
    "sadly surprised": {"AU1": 1.0, "AU2": 0.27, "AU4": 1.0, "AU6": 0.31, "AU25": 1.0, "AU26": 1.0},
    "sadly disgusted": {"AU1": 0.49, "AU4": 1.0, "AU6": 0.61, "AU9": 0.20, "AU10": 1.0}
    | {"AU11": 0.35, "AU15": 0.54, "AU17": 0.47, "AU25": 0.43},
    "fearfully angry": {"AU4": 1.0, "AU5": 0.40, "AU7": 0.39, "AU10": 0.30, "AU11": 0.33, "AU20": 1.0, "AU25": 1.0},
    "fearfully surprised": {"AU1": 1.0, "AU2": 1.0, "AU4": 0.47, "AU5": 1.0, "AU10": 0.35, "AU11": 0.22}
    | {"AU20": 1.0, "AU25": 1.0, "AU26": 0.51},
    "angrily surprised": {"AU4": 1.0, "AU5": 0.35, "AU7": 0.50, "AU10": 0.34, "AU25": 1.0, "AU26": 1.0},
    "angrily disgusted": {"AU4": 1.0, "AU7": 0.60, "AU9": 0.57, "AU10": 1.0, "AU17": 1.0, "AU24": 0.36},
    "disgustedly surprised": {"AU1": 1.0, "AU2": 1.0, "AU4": 0.45, "AU5": 1.0}
    | {"AU9": 0.37, "AU10": 1.0, "AU17": 0.66, "AU24": 0.33},
    "contempt": {"AU12 unilateral": 1.0, "AU14 unilateral": 1.0},
}
"""Fraction of the people posing an expression who show the AU: 1 for the AUs that Du, Tao & Martinez (2014) call
consistent (more than 70 %), the published fraction for those that vary between people."""


@dataclass(frozen=True)
class RenderSettings:
    """Difficulty of the images.

    ``intensity_low``, ``intensity_high``: range of the overall AU intensity of an image (1 is the FACS maximum).
    ``au_jitter``: relative spread of each AU about that intensity. ``stray_au``: largest activation of an AU that the
    expression does not have. ``identity``: scale of the person's resting face (brow tilt, lid opening, mouth curve,
    proportions); 0 gives one average face. ``capture``: scale of pose, light and asymmetry; 0 gives a frontal,
    evenly lit view without occluder, blur or noise. ``noise``: largest sensor noise, in grey levels of 255.
    ``occluder``: fraction of the images with one.
    """

    intensity_low: float = 0.40
    intensity_high: float = 1.0
    au_jitter: float = 0.35
    stray_au: float = 0.23
    identity: float = 1.0
    capture: float = 1.0
    noise: float = 14.0
    occluder: float = 0.15


DEFAULT_SETTINGS = RenderSettings()


def sample_action_units(
    expressions: ArrayLike, seed: int, *, settings: RenderSettings = DEFAULT_SETTINGS, start: int = 0
) -> Float:
    """Sample AU activations, float32 (N, len(AU_NAMES)) in [0, 1].

    Each image, from number ``start`` on, gets an overall intensity; its expression's AUs (drawn by their fractions in
    ACTION_UNITS) spread about it, and any other AU may stray a little.
    """
    labels = np.asarray(expressions)
    if labels.ndim != 1 or (labels.size and not np.issubdtype(labels.dtype, np.integer)):
        raise ValueError(f"expressions must be a list of integers, not {labels.dtype} of shape {labels.shape}")
    for label in labels[(labels < 0) | (labels >= len(EXPRESSIONS))][:1]:
        raise ValueError(f"unknown expression index {label}: EXPRESSIONS has {len(EXPRESSIONS)} entries")
    labels = labels.astype(np.int64)
    keys = image_keys(seed, start, len(labels))
    count = len(AU_NAMES)
    table = np.array([[ACTION_UNITS[name].get(au, 0.0) for au in AU_NAMES] for name in EXPRESSIONS], dtype=np.float32)
    draws = uniforms(keys, AU_STREAM, 2 * count + 1)
    jitter = bells(keys, AU_STREAM + 2 * count + 1, count)
    overall = settings.intensity_low + (settings.intensity_high - settings.intensity_low) * draws[:, :1]
    shown = np.minimum(np.maximum(overall * (1 + settings.au_jitter * jitter), 0), 1)
    stray = settings.stray_au * np.maximum(2 * draws[:, count + 1 :] - 1, 0)
    activations: Float = np.where(draws[:, 1 : count + 1] < table[labels], np.maximum(shown, stray), stray)
    return activations
