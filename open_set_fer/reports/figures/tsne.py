"""Figure 7: t-SNE of the features that the networks of the baseline and of ours have of the test faces."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from open_set_fer.reports.data.names import dataset_name
from open_set_fer.reports.data.results import FINISHED, Results, protocol_order
from open_set_fer.reports.figures import base

METHODS = ("baseline", "ours")
FACES = 1500  # most points of a panel: t-SNE takes seconds for them, and more points hide each other
NEIGHBOURS = 10  # nearest neighbours by the features, of which each panel's title says how many are alike
SEED = 0
OPEN_RED = "#D50000"
COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#8C6D00", "#7A5195", "#CC79A7", "#4D4D4D", "#9ACD32")
"""Of the closed classes: none near red. Where there are more classes, closed faces are grey."""
GREY = "#9A9A9A"


@dataclass(frozen=True)
class Faces:
    """Features (n, D) of a cell's test faces, whether each is open, and its class; of `total` faces."""

    features: NDArray[np.float32]
    is_open: NDArray[np.bool_]
    classes: NDArray[Any]
    total: int


def embedding_figures(results: Results) -> Iterator[base.ReportFigure]:
    """Figure 7 of each data set: the first choice of open classes, and its lowest seed, with the most panels."""
    for dataset in results.datasets:
        cells = _drawn_cells(results, dataset)
        runs = zip(cells["method"], cells["run_id"], strict=True)
        read = {method: _faces(results, run_id) for method, run_id in runs}
        if faces := {method: given for method, given in read.items() if given is not None}:
            yield _figure(results, dataset, cells.iloc[0], faces)


def lacking_features(results: Results) -> list[str]:
    """A sentence on each data set that has no Figure 7, with the command that makes its features."""
    return [
        f"Figure 7 (t-SNE of the features) of {dataset_name(dataset)} needs cells that kept them: "
        f"{_command(results, dataset)} (finished cells are not computed again: give it another --home)"
        for dataset in results.datasets
        if _drawn_cells(results, dataset).empty
    ]


def _drawn_cells(results: Results, dataset: str) -> pd.DataFrame:
    """The cells with features of the open classes and seed that most methods have, the first of several."""
    cells = results.of(dataset)
    cells = cells[cells["method"].isin(METHODS) & (cells["status"] == FINISHED) & (cells["features"] == "kept")]
    places = list(zip(cells["protocol"], cells["open_classes"], cells["seed"], strict=True))
    order = protocol_order(cells)
    first = min(places, key=lambda p: (-places.count(p), order.index(p[:2]), p[2]), default=None)
    return cells[np.array([place == first for place in places], dtype=bool)]


def _command(results: Results, dataset: str) -> str:
    cells = results.of(dataset)
    _, label = protocol_order(cells)[0]
    choice = str(cells.loc[cells["open_classes"] == label, "choice"].iloc[0])
    options = {"--profile": results.profile, "--dataset": dataset, "--open": choice, "--method": ",".join(METHODS)}
    words = [word for option in options.items() for word in option]
    return shlex.join(["osfer", "run", *words, "--keep-features"])


def _faces(results: Results, run_id: str) -> Faces | None:
    """The first faces of a cell, a random sample: the runner has shuffled them; None where they are gone."""
    kept, frame = results.features(run_id), results.scores(run_id)
    if kept is None or frame is None:
        return None
    ids, features = kept
    if list(ids) != list(frame["id"]) or not np.isfinite(features).all():
        return None
    is_open = frame["is_open"].to_numpy(dtype=bool)[:FACES]
    return Faces(features[:FACES], is_open, frame["truth"].to_numpy()[:FACES], len(frame))


@base.styled
def _figure(results: Results, dataset: str, cell: pd.Series[Any], faces: dict[str, Faces]) -> base.ReportFigure:
    opened = cell["open_classes"]
    classes = sorted({str(name) for given in faces.values() for name in given.classes[~given.is_open]})
    colours = dict(zip(classes, COLOURS, strict=False)) if len(classes) <= len(COLOURS) else {}

    def draw(axes: Axes, _: str, method: str) -> str:
        return f"{results.title(method)}: {_panel(axes, faces.get(method), colours)}"

    headings = {method: results.title(method) for method in METHODS}
    figure, sentences = base.panel_grid({"": ""}, headings, draw, (base.PAGE_WIDTH, 3.6))
    marks = [("o", colour, name) for name, colour in (colours or {"closed": GREY}).items()]
    marks.append(("x", OPEN_RED, f"open: {opened}"))
    style: dict[str, Any] = {"markersize": 4.5, "linestyle": ""}
    handles = [Line2D([], [], marker=mark, color=colour, label=name, **style) for mark, colour, name in marks]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    total, name = max(given.total for given in faces.values()), dataset_name(dataset)
    count = f"{FACES} of {total} test faces, drawn at random" if total > FACES else f"All {total} test faces"
    missing = ", ".join(results.title(method) for method in METHODS if method not in faces)
    remark = f" Without features: {missing}; {_command(results, dataset)}." if missing else ""
    caption = (
        f"{name}, {opened} open, seed {cell['seed']}: t-SNE of the features that each method's network has of "
        f"the test faces (the paper's Figure 7); of {results.title('ours')} the network trained last. {count}; "
        f"perplexity {_perplexity(min(FACES, total)):g}, seed {SEED}. Neighbourhoods mean something, sizes of clusters "
        f"and gaps between them do not. Over each panel: how many of the {NEIGHBOURS} nearest neighbours of an open "
        f"face, by the features themselves, are open.{remark}"
    )
    alternative = f"t-SNE of features on {name}, {opened} open: {'; '.join(sentences)}."
    stem, title = ("figure7", dataset, opened), f"Figure 7: {name}, {opened} open"
    return base.captioned(results, dataset, stem, title, caption, alternative, figure)


def _panel(axes: Axes, faces: Faces | None, colours: dict[str, str]) -> str:
    if faces is None or len(faces.features) < 5:
        return base.placeholder(axes, "no features kept" if faces is None else "too few faces")
    places = embed(faces.features)
    shades = [colours.get(str(name), GREY) for name in faces.classes[~faces.is_open]]
    # Points as an image: thousands of SVG elements would make the page slow.
    (closed_x, closed_y), (open_x, open_y) = places[~faces.is_open].T, places[faces.is_open].T
    axes.scatter(closed_x, closed_y, c=shades, s=5, linewidths=0, alpha=0.75, rasterized=True)
    axes.scatter(open_x, open_y, c=OPEN_RED, s=8, marker="x", linewidths=0.7, alpha=0.9, rasterized=True)
    base.without_ticks(axes)
    near = f"open among an open face's neighbours: {open_neighbours(faces):.0%}"
    text = f"{near} (of all faces: {faces.is_open.mean():.0%})"
    axes.set_title(text, fontsize=7.5, pad=3)
    return text


def embed(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, 2): t-SNE of the features (n, D), the same for the same features on one machine."""
    from sklearn.manifold import TSNE

    spread = np.ptp(features, axis=0)
    useful = features[:, spread > 0] if (spread > 0).sum() > 1 else features[:, :1].repeat(2, axis=1)
    start: Any = "pca" if len(useful) > 2 and spread.any() else "random"
    layout = TSNE(init=start, perplexity=_perplexity(len(useful)), random_state=SEED)
    placed: NDArray[np.float32] = layout.fit_transform(useful)
    return placed


def _perplexity(count: int) -> float:
    """scikit-learn's 30, or what few faces allow."""
    return float(min(30, max(1, (count - 1) // 3)))


def open_neighbours(faces: Faces) -> float:
    """Mean share of open faces among the nearest neighbours of the open ones; NaN without any."""
    if not faces.is_open.any():
        return float("nan")
    return float(faces.is_open[nearest(faces.features)[faces.is_open]].mean())


def nearest(features: NDArray[np.float32]) -> NDArray[np.int64]:
    """(n, k): the NEIGHBOURS nearest others of each row of (n, D), or as many as there are."""
    from sklearn.neighbors import NearestNeighbors

    neighbours = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(features) - 1)).fit(features)
    near: NDArray[np.int64] = neighbours.kneighbors(return_distance=False)  # without each row itself
    return near
