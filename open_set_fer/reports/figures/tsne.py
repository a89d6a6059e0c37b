"""Figure 7: the features of the baseline's and ours' networks on the test faces, laid out by t-SNE."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from open_set_fer.reports.data.names import dataset_name, method_name
from open_set_fer.reports.data.results import FINISHED, Results, protocol_order
from open_set_fer.reports.figures.base import PAGE_WIDTH, ReportFigure, draw_word
from open_set_fer.reports.tables.build import demonstration, slug

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METHODS = ("baseline", "ours")
FACES = 1500
"""At most so many are laid out: t-SNE takes seconds for them, and more points hide each other."""
NEIGHBOURS = 10
"""Of an open face, whose share of open ones is said beside each panel."""
SEED = 0
OPEN_RED = "#D50000"
COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#8C6D00", "#7A5195", "#CC79A7", "#4D4D4D", "#9ACD32")
"""Of the closed classes: none near red. Where there are more classes, closed faces are grey."""
GREY = "#9A9A9A"


@dataclass(frozen=True)
class Faces:
    """Test faces of one cell as its network sees them: features (n, D), whether each is open, its class; of `total` faces."""

    features: NDArray[np.float32]
    is_open: NDArray[np.bool_]
    classes: NDArray[Any]
    total: int


def embedding_figures(results: Results) -> Iterator[ReportFigure]:
    """Figure 7 of each data set: the first choice of open classes, and its lowest seed, with the most panels."""
    for dataset in results.datasets:
        if chosen := _chosen(results, dataset):
            faces = {method: _faces(results, run_id) for method, run_id in chosen.runs.items()}
            if any(given is not None for given in faces.values()):
                yield _figure(results, dataset, chosen, faces)


def lacking_features(results: Results) -> list[str]:
    """A sentence on each data set that has no Figure 7, with the command that makes its features."""
    lacking = [dataset for dataset in results.datasets if _chosen(results, dataset) is None]
    return [
        f"Figure 7 (t-SNE of the features) of {dataset_name(dataset)} needs cells that kept them: {_command(results, dataset)}"
        " (cells that are done already are not computed again: give it a --home of its own)"
        for dataset in lacking
    ]


@dataclass(frozen=True)
class _Chosen:
    """Open classes and seed that are drawn, and the runs with features by method."""

    opened: str
    seed: int
    runs: dict[str, str]


def _chosen(results: Results, dataset: str) -> _Chosen | None:
    cells = results.of(dataset)
    cells = cells[cells["method"].isin(METHODS) & (cells["status"] == FINISHED) & (cells["features"] == "kept")]
    if cells.empty:
        return None
    groups: dict[tuple[str, str, int], dict[str, str]] = {}
    for cell in cells.to_dict("records"):
        place = cell["protocol"], cell["open_classes"], int(cell["seed"])
        groups.setdefault(place, {})[cell["method"]] = cell["run_id"]
    order = protocol_order(cells)
    chosen = min(groups, key=lambda place: (-len(groups[place]), order.index(place[:2]), place[2]))
    return _Chosen(chosen[1], chosen[2], groups[chosen])


def _command(results: Results, dataset: str) -> str:
    cells = results.of(dataset)
    _, label = protocol_order(cells)[0]
    opened = str(cells.loc[cells["open_classes"] == label, "choice"].iloc[0])
    return shlex.join(
        [
            "osfer",
            "run",
            "--profile",
            results.profile,
            "--dataset",
            dataset,
            "--open",
            opened,
            "--method",
            ",".join(METHODS),
            "--keep-features",
        ]
    )


def _faces(results: Results, run_id: str) -> Faces | None:
    """The first faces of a cell, which are drawn at random: the runner has shuffled them; None where they are gone."""
    kept, frame = results.features(run_id), results.scores(run_id)
    if kept is None or frame is None:
        return None
    ids, features = kept
    if list(ids) != list(frame["id"]) or not np.isfinite(features).all():
        return None
    is_open = frame["is_open"].to_numpy(dtype=bool)[:FACES]
    return Faces(features[:FACES], is_open, frame["truth"].to_numpy()[:FACES], len(frame))


def _figure(results: Results, dataset: str, chosen: _Chosen, faces: dict[str, Faces | None]) -> ReportFigure:
    figure = Figure(figsize=(PAGE_WIDTH, 3.6), layout="constrained", dpi=200)
    panels = figure.subplots(1, len(METHODS))
    drawn = [given for given in faces.values() if given is not None]
    classes = sorted({str(name) for given in drawn for name in given.classes[~given.is_open]})
    colours = dict(zip(classes, COLOURS, strict=False)) if len(classes) <= len(COLOURS) else {}
    sentences = []
    for axes, method in zip(panels, METHODS, strict=True):
        axes.set_title(f"{method_name(method)}\n", fontsize=8, fontweight="bold", loc="left")
        sentences.append(f"{method_name(method)}: {_panel(axes, faces.get(method), colours)}")
    legend = [_handle("o", colour, name) for name, colour in colours.items()] or [_handle("o", GREY, "closed")]
    figure.legend(
        handles=[*legend, _handle("x", OPEN_RED, f"open: {chosen.opened}")],
        loc="outside lower center",
        ncols=4,
        frameon=False,
        fontsize=8,
    )
    total = max(given.total for given in drawn)
    some = f"{min(FACES, total)} of {total} test faces, drawn at random" if total > FACES else f"All {total} test faces"
    missing = [method for method in METHODS if faces.get(method) is None]
    lacks = (
        f" Without features: {', '.join(map(method_name, missing))}; {_command(results, dataset)}." if missing else ""
    )
    caption = (
        f"{dataset_name(dataset)}, {chosen.opened} open, seed {chosen.seed}: t-SNE of the features that each method's network "
        f"has of the test faces (the paper's Figure 7); of {method_name('ours')} the network trained last. {some}; perplexity "
        f"{_perplexity(min(FACES, total)):g}, seed {SEED}. Neighbourhoods mean something, sizes of clusters and gaps between them do not. "
        f"Over each panel: how many of the {NEIGHBOURS} nearest neighbours of an open face, by the features themselves, are "
        f"open.{lacks}{demonstration(results, dataset)}"
    )
    alternative = f"t-SNE of features on {dataset_name(dataset)}, {chosen.opened} open: {'; '.join(sentences)}."
    name = f"figure7_{slug(dataset)}_{slug(chosen.opened)}"
    return ReportFigure(name, f"Figure 7: {dataset_name(dataset)}, {chosen.opened} open", caption, alternative, figure)


def _panel(axes: Axes, faces: Faces | None, colours: dict[str, str]) -> str:
    """Draw a method's faces; returns what they show in words."""
    if faces is None or len(faces.features) < 5:
        text = "no features kept" if faces is None else "too few faces"
        draw_word(axes, text)
        return text
    places = embed(faces.features)
    shade = [colours.get(str(name), GREY) for name in faces.classes[~faces.is_open]]
    # Points as an image: thousands of SVG elements would make the page slow.
    (closed_x, closed_y), (open_x, open_y) = places[~faces.is_open].T, places[faces.is_open].T
    axes.scatter(closed_x, closed_y, c=shade, s=5, linewidths=0, alpha=0.75, rasterized=True)
    axes.scatter(open_x, open_y, c=OPEN_RED, s=8, marker="x", linewidths=0.7, alpha=0.9, rasterized=True)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_alpha(0.3)
    text = (
        f"open among an open face's neighbours: {open_neighbours(faces):.0%} (of all faces: {faces.is_open.mean():.0%})"
    )
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

    found = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(features) - 1)).fit(features)
    # Asked for its own rows it leaves each of them out of its neighbours.
    near: NDArray[np.int64] = found.kneighbors(return_distance=False)
    return near


def _handle(marker: str, colour: str, label: str) -> Line2D:
    return Line2D([], [], color=colour, marker=marker, markersize=4.5, linestyle="", label=label)
