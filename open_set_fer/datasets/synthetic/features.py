"""Eyes, brows, nose and mouth of the synthetic faces, as the action units move them."""

from __future__ import annotations

import numpy as np

from open_set_fer.datasets.synthetic.drawing import Canvas, Draws, Float, bump, paint, spot, unit

Activations = dict[str, Float]


class UpperFace:
    """Eyes and brows of one block of images."""

    def __init__(self, face: Canvas, au: Activations, draws: Draws, person: float, capture: float) -> None:
        self.face, self.au = face, au
        self.eye_u, self.eye_v = draws.bell(0.315, 0.05 * person), draws.bell(-0.11, 0.04 * person)
        self.eye_width = draws.bell(0.165, 0.03 * person)
        upper, lower = draws.bell(0.075, 0.035 * person), draws.bell(0.045, 0.015 * person)
        slant, self.gaze = draws.bell(-0.012, 0.035 * person), draws.bell(0, 0.06 * capture)
        self.uneven = draws.bell(0, 0.03 * capture)
        self.brow_u, self.brow_v = draws.bell(0.325, 0.04 * person), draws.bell(-0.345, 0.07 * person)
        self.brow_width, self.thickness = draws.bell(0.205, 0.03 * person), draws.bell(0.036, 0.017 * person)
        self.arch, self.tilt = draws.bell(0.045, 0.04 * person), draws.bell(0.0, 0.045 * person)
        self.brow_strength = draws.bell(0.82, 0.15 * person)
        self.iris_level, self.iris_size = draws.uniform(0.10, 0.10 + 0.3 * person), draws.bell(0.078, 0.012 * person)
        self.folds = draws.bell(0.16, 0.14 * person)
        # Lids: AU5 widens; AU6, AU7 and AU9 narrow from below, AU4, AU7 and AU9 from above.
        upper = upper + 0.062 * au["AU5"] + 0.012 * au["AU1"] * au["AU2"] - 0.020 * au["AU7"] - 0.014 * au["AU4"]
        upper = np.maximum(upper - 0.020 * au["AU9"] - 0.012 * au["AU6"], 0.014)
        lower = lower + 0.012 * au["AU5"] - 0.032 * au["AU7"] - 0.052 * au["AU6"] - 0.034 * au["AU9"]
        lower = np.maximum(lower, -0.35 * upper)
        along = (face.across - self.eye_u) / self.eye_width
        bulge = 1 - along * along
        self.middle = self.eye_v + slant * along
        self.top, self.bottom = self.middle - upper * bulge, self.middle + lower * bulge
        self.ends = face.edge((1.06 - np.abs(along)) * self.eye_width)

    def paint(self, image: Float, hair_level: Float) -> None:
        """Paint the upper face in place."""
        self._paint_skin(image)
        self._paint_eyeballs(image)
        self._paint_brows(image, hair_level)

    def _paint_skin(self, image: Float) -> None:
        """Sockets, lines of AU1, AU2, AU4 and AU9, crow's feet and pouch of AU6."""
        face, au, eye_u, eye_v = self.face, self.au, self.eye_u, self.eye_v
        u, v, across = face.u, face.v, face.across
        dark = spot(across - (eye_u - 0.04), v - (eye_v - 0.07), 0.25, 0.19)
        dark *= 0.16 + 0.16 * au["AU4"]
        shift = 0.10 * across * across
        lift = np.maximum(au["AU1"] * 0.7, au["AU2"])
        forehead = face.line(v + 0.56 - shift, 0.022) + face.line(v + 0.67 - shift, 0.022)
        forehead *= bump(u * u * (1 / 0.42**2))
        dark += forehead * (0.42 * lift)
        frown = face.line(across - 0.055 - 0.02 * (v + 0.3), 0.024) * bump((v + 0.29) * (v + 0.29) * (1 / 0.17**2))
        dark += frown * (0.75 * au["AU4"] + 0.15 * self.folds)
        root = face.line(v + 0.17 - 2 * shift, 0.022) + face.line(v + 0.08 - 2 * shift, 0.022)
        root *= bump(u * u * (1 / 0.16**2))
        dark += root * (0.65 * au["AU9"])
        beyond = across - (eye_u + self.eye_width) - 0.02
        rays = face.line(v - eye_v + 0.02 + 0.55 * beyond, 0.018)
        rays += face.line(v - eye_v - 0.02 - 0.10 * beyond, 0.018)
        rays += face.line(v - eye_v - 0.05 - 0.70 * beyond, 0.018)
        rays *= bump((beyond - 0.075) * (beyond - 0.075) * (1 / 0.10**2))
        dark += rays * (0.55 * au["AU6"])
        pouch = face.line(v - self.bottom - 0.055 + 0.02 * au["AU6"], 0.026) * self.ends
        dark += pouch * (0.6 * self.folds + 0.40 * au["AU6"] + 0.25 * au["AU7"])
        crease = face.line(v - self.top + 0.055 - 0.012 * au["AU5"], 0.020) * self.ends
        dark += crease * 0.30
        image *= 1 - np.minimum(dark, 0.75)

    def _paint_eyeballs(self, image: Float) -> None:
        """White, iris, pupil, a highlight, and the shadow of the upper lid."""
        face, top, bottom = self.face, self.top, self.bottom
        opening = face.band(top, bottom)
        paint(image, opening, 0.90)
        x, y = face.across - self.eye_u - face.side * self.gaze, face.v - (self.middle - 0.012)
        radius = np.sqrt(x * x + y * y)
        iris = face.edge(self.iris_size - radius)
        iris *= opening
        paint(image, iris, self.iris_level)
        pupil = face.edge(0.45 * self.iris_size - radius)
        pupil *= opening
        paint(image, pupil, 0.04)
        highlight = spot(face.u - face.side * self.eye_u - self.gaze + 0.03, y + 0.03, 0.042, 0.042)
        highlight *= opening
        paint(image, 0.8 * highlight, 1.0)
        lid = face.line(face.v - top + 0.006, 0.024) * self.ends
        paint(image, 0.88 * lid, 0.06)
        paint(image, 0.40 * face.line(face.v - bottom - 0.004, 0.018) * self.ends, 0.12)

    def _paint_brows(self, image: Float, level: Float) -> None:
        """Brows: AU1 lifts the inner end, also against AU4, AU2 the outer; AU4 lowers and draws together."""
        face, au = self.face, self.au
        along = (face.across - self.brow_u + 0.05 * au["AU4"]) / self.brow_width
        inner = unit(0.5 - 0.5 * along)
        outer = 1 - inner
        lowering = au["AU4"] * (1 - 0.65 * au["AU1"])
        raised = (0.165 * au["AU1"]) * inner * inner
        raised += (0.135 * au["AU2"]) * outer
        raised -= (0.080 * lowering + 0.03 * au["AU9"]) * (0.35 + 1.15 * inner)
        arch = (self.arch * (1 - 0.6 * au["AU4"])) * (1 - along * along)
        centre = self.brow_v - raised - arch + self.tilt * along + face.side * self.uneven
        half = self.thickness * (1 - 0.6 * np.maximum(along, 0) * np.maximum(along, 0))
        brow = face.band(centre - half, centre + half)
        brow *= face.edge((1 - np.abs(along)) * self.brow_width)
        paint(image, brow * self.brow_strength, level)

    def paint_glasses(self, image: Float, present: Float, level: Float) -> None:
        """Paint a ring about each eye, bridge and temples in place."""
        face, eye_u, eye_v = self.face, self.eye_u, self.eye_v
        x, y = (face.across - eye_u) * (1 / 0.235), (face.v - eye_v - 0.02) * (1 / 0.18)
        ring = face.line((np.sqrt(x * x + y * y) - 1) * 0.2, 0.03)
        bridge = face.line(face.v - eye_v + 0.02, 0.03) * face.edge(eye_u - 0.23 - face.across)
        temple = face.line(face.v - eye_v + 0.01, 0.03) * face.edge(face.across - eye_u - 0.23)
        temple *= face.edge(0.70 - face.across)
        paint(image, np.maximum(np.maximum(ring, bridge), temple) * (0.85 * present), level)


class LowerFace:
    """Nose, cheeks, mouth and chin of one block of images."""

    def __init__(self, face: Canvas, au: Activations, draws: Draws, person: float, capture: float) -> None:
        self.face, self.au = face, au
        nose_width, nose_v = draws.bell(0.135, 0.03 * person), draws.bell(0.19, 0.04 * person)
        self.nose_light = draws.bell(0.10, 0.05 * person)
        self.mouth_v, half = draws.bell(0.47, 0.045 * person), draws.bell(0.245, 0.045 * person)
        self.upper_lip, self.lower_lip = draws.bell(0.050, 0.022 * person), draws.bell(0.068, 0.026 * person)
        self.lip_level, self.lip_strength = draws.bell(0.58, 0.12 * person), draws.bell(0.72, 0.2 * person)
        self.resting, self.uneven = draws.bell(0, 0.045 * person), draws.bell(0, 0.018 * capture)
        self.teeth_height, self.folds = draws.bell(0.075, 0.02 * person), draws.bell(0.12, 0.12 * person)
        sign = 2 * draws.chance(0.5) - 1

        one_side = unit(sign * face.u * 6)  # rises from the middle, so that the mouth stays in one piece
        self.pull = np.minimum(au["AU12"] + one_side * au["AU12 unilateral"], 1)
        self.dimple = np.minimum(au["AU14"] + one_side * au["AU14 unilateral"], 1)
        self.press = np.maximum(au["AU23"], au["AU24"])
        self.parted = np.minimum(2.5 * au["AU25"], 1)
        # AU9 draws the nose up and widens its wings.
        self.nose_v = nose_v - 0.045 * au["AU9"]
        self.nose_width = nose_width + 0.02 * au["AU9"] + 0.012 * self.pull
        self._place_corners(half)
        self._place_lips()

    def _place_corners(self, half: Float) -> None:
        """Corners of the mouth: up and out by AU12, down by AU15, out by AU20, in by AU24, AU26 and AU27."""
        au, pull = self.au, self.pull
        half = half + 0.075 * pull + 0.080 * au["AU20"] + 0.02 * self.dimple - 0.030 * au["AU24"]
        self.half = half - (0.055 * au["AU26"] + 0.070 * au["AU27"]) * (1 - au["AU20"])
        lift = self.resting * (1 - 0.6 * self.press) - (0.035 * au["AU10"] + 0.025 * au["AU17"]) * (1 - pull)
        lift = lift + 0.115 * pull - 0.120 * au["AU15"] - 0.030 * au["AU20"] + 0.020 * self.dimple
        self.lift = lift + self.face.side * self.uneven
        self.along = self.face.u / self.half
        self.centre = self.mouth_v + 0.035 * pull - 0.040 * au["AU17"] - 0.02 * au["AU10"]

    def _place_lips(self) -> None:
        """Curves of both lips: `outer_top`, `inner_top`, `inner_bottom`, `outer_bottom`."""
        u, au, pull = self.face.u, self.au, self.pull
        square = self.along * self.along
        arc = 1 - square
        within = np.maximum(arc, 0)
        middle = self.centre - self.lift * square * (0.45 + 0.55 * square)
        jaw = (au["AU26"] * 0.16 + au["AU27"] * 0.26) * self.parted
        gap = 0.055 * au["AU25"] + jaw
        mix = np.minimum(0.25 + 1.2 * (au["AU26"] + au["AU27"]), 1)
        shape = arc + mix * (np.sqrt(within) - within)
        raised = 0.070 * au["AU10"]
        self.inner_top = middle - (0.30 * gap + 0.15 * jaw + 0.6 * raised * self.parted) * shape
        self.inner_bottom = middle + (0.70 * gap - 0.15 * jaw) * shape
        thin = np.maximum(1 - 0.62 * self.press - 0.25 * pull - 0.25 * au["AU20"], 0.25)
        bow = 1 - 0.35 * bump(u * u * (1 / 0.07**2))
        flat = 1 - square * square
        self.outer_top = self.inner_top - (self.upper_lip * thin) * bow * arc - (0.4 * raised) * flat
        lower = (self.lower_lip * (thin + 0.15 * au["AU17"])) * arc * (1 + 0.3 * within)
        self.outer_bottom = self.inner_bottom + lower
        self.jaw, self.gap = jaw, gap

    def paint(self, image: Float, light: Float) -> None:
        """Paint the lower face in place; light: from the right, below zero from the left."""
        u, v, across = self.face.u, self.face.v, self.face.across
        image += spot(u, v - 0.04, 0.075, 0.27) * self.nose_light
        image += spot(u, v - self.nose_v + 0.05, 0.085, 0.08) * self.nose_light
        dark = self._nose_shadow(light)
        self._add_folds(dark)
        image *= 1 - np.minimum(dark, 0.8)
        cheeks = 0.04 + 0.07 * self.pull + 0.06 * self.au["AU6"]
        image += spot(across - 0.40, v - 0.16, 0.20, 0.15) * cheeks
        self._paint_mouth(image)

    def _nose_shadow(self, light: Float) -> Float:
        """Darkness of bridge, wings, nostrils and the shadow below."""
        face, nose_v = self.face, self.nose_v
        u, v, across = face.u, face.v, face.across
        dark = spot(across - 0.10, v - 0.05, 0.07, 0.26) * (0.12 + 0.16 * face.side * light)
        np.maximum(dark, 0, out=dark)
        x, y = across - (self.nose_width - 0.055), v - (nose_v - 0.035)
        wing = face.line(np.sqrt(x * x + y * y) - 0.06, 0.022)
        wing *= face.edge(x - 0.012)
        dark += wing * (0.42 + 0.35 * self.au["AU9"])
        dark += spot(across - 0.072, v - nose_v, 0.062, 0.042) * 0.75
        dark += spot(u, v - nose_v - 0.045, 0.15, 0.06) * 0.26
        return dark

    def _add_folds(self, dark: Float) -> None:
        """Folds from nose to mouth (AU9 to AU12), dimples, lines of AU15 and AU17, lip shadow."""
        face, au, pull, nose_v = self.face, self.au, self.pull, self.nose_v
        u, v, across = face.u, face.v, face.across
        corner_u, corner_v = self.half, self.centre - self.lift
        down = v - nose_v + 0.03
        reach = unit(down / (corner_v - nose_v + 0.05))
        curl = 0.025 + 0.05 * au["AU9"] + 0.05 * au["AU10"] + 0.04 * pull
        fold_u = self.nose_width + 0.03 + reach * (corner_u + 0.055 - self.nose_width - 0.03)
        fold_u = fold_u + curl * 4 * reach * (1 - reach)
        fold = face.line(across - fold_u, 0.030)
        fold *= face.edge(down) * face.edge(corner_v + 0.04 - v)
        strength = self.folds + 0.30 * pull + 0.40 * au["AU9"] + 0.40 * au["AU10"] + 0.40 * au["AU11"]
        dark += fold * np.minimum(strength, 0.62)
        dark += spot(across - corner_u - 0.02, v - corner_v, 0.05, 0.05) * (0.30 + 0.2 * pull)
        dark += spot(across - corner_u - 0.055, v - corner_v, 0.045, 0.12) * (0.70 * self.dimple)
        sad = face.line(across - corner_u - 0.02 - 0.35 * (v - corner_v), 0.024)
        sad *= spot(across - corner_u, v - corner_v - 0.06, 0.14, 0.13)
        dark += sad * (0.55 * au["AU15"])
        low = self.centre + 0.70 * self.gap + self.lower_lip
        dark += spot(u, v - low - 0.055, 0.19, 0.055) * (0.20 + 0.25 * au["AU17"])
        chin = face.line(v - low - 0.10 - 1.6 * u * u, 0.026) * bump(u * u * (1 / 0.2**2))
        dark += chin * (0.50 * au["AU17"])

    def _paint_mouth(self, image: Float) -> None:
        """Lips, the mouth's dark inside, tongue and teeth."""
        face, au, along = self.face, self.au, self.along
        paint(image, face.band(self.outer_top, self.outer_bottom) * self.lip_strength, self.lip_level * image)
        image -= 0.10 * self.lip_strength * face.band(self.outer_top, self.inner_top)
        least = 0.016 + 0.008 * self.press
        inside = face.band(self.inner_top - least, self.inner_bottom + least)
        inside *= face.edge((1 - np.abs(along)) * self.half + 0.02)
        paint(image, inside * 0.92, 0.07)
        tongue = spot(face.u, face.v - self.centre - 0.70 * self.gap, 0.17, 0.09)
        paint(image, tongue * inside * np.minimum(3 * self.jaw, 0.7), 0.42)
        show = np.minimum(self.parted * (0.12 + 0.9 * (self.pull + au["AU20"] + au["AU10"])), 1)
        teeth = face.band(self.inner_top, np.minimum(self.inner_bottom, self.inner_top + self.teeth_height))
        teeth *= face.edge((0.88 - np.abs(along)) * self.half)
        paint(image, teeth * show, 0.93)
