"""What a card does with every method (`make gpu-check`): speed, memory, agreement with the CPU, hours of `paper`.

Without a card the same steps run once on the CPU, at a tiny size, to show that the script works.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from open_set_fer.benchmark.execution.devices import choose_device
from open_set_fer.benchmark.planning.cells import Cell, Selection, dry_plan
from open_set_fer.benchmark.planning.profile import Profile, load_profile
from open_set_fer.datasets.ferplus import FerPlus
from open_set_fer.datasets.synthetic.renderer import render_faces
from open_set_fer.methods.contract import Method, OpenSetTask, states
from open_set_fer.methods.shared import training
from open_set_fer.methods.shared.backbones import build_network
from open_set_fer.methods.shared.recipe import BackboneSettings, ClosedSetSettings
from open_set_fer.testing.methods import PlainContext
from tests.performance.perf import ferplus_tree

CLOSED_SET = "closed-set model"
LABELS = ("eow", "proser", "dias", "ours", "ours-online", "ours-plus", "o2u", "co-teaching", "cleanlab")
LABELS += ("baseline", "label-loss", "two-sample", "energy", "knn", "odin", "rankfeat")
SECONDS = 7 * 60
"""After these, what is not measured yet is left out."""
LOGITS, RANKS = 1e-3, 0.98
"""Tolerances: largest difference of the logits of the same weights; rank correlation of the scores after one epoch."""


@dataclass(frozen=True)
class Size:
    """Faces of the measurement, the backbone, and the batch."""

    pixels: int
    train: int
    test: int
    batch: int
    backbone: BackboneSettings


FULL = Size(224, 360, 240, 60, BackboneSettings("resnet18", stem="face"))
TINY = Size(32, 48, 32, 16, BackboneSettings("small", width=8))


@dataclass
class Row:
    """Of a method: images a second in training, MiB, seconds beside the epochs, agreement (None: not measured)."""

    method: str
    precision: str
    images_a_second: float | None
    peak_mib: float
    other_seconds: float
    agreement: float | None = None
    agrees: bool | None = None


def task_of(size: Size) -> OpenSetTask:
    """Rendered faces of seven expressions, the last of them open."""
    train, test = np.arange(size.train) % 6, np.arange(size.test) % 7
    images = render_faces(np.concatenate([train, test]), 0, size.pixels)
    names = ("surprise", "fear", "disgust", "happiness", "sadness", "anger")
    task = OpenSetTask(images[: size.train], train, images[size.train :], names, 0)
    return replace(task, held_out_images=task.train_images[::3], held_out_labels=train[::3])


def recipe(size: Size, **changes: Any) -> ClosedSetSettings:
    """The closed-set recipe; 'geometry' where numbers are compared, as a card draws noise of its own."""
    return ClosedSetSettings(epochs=1, batch_size=size.batch, **changes)


def trained(size: Size, task: OpenSetTask, device: torch.device, settings: ClosedSetSettings) -> Any:
    """A closed-set model."""
    network = build_network(size.backbone, 6, 1, 0).to(device)
    random = torch.Generator().manual_seed(0)
    given = task.train_images, task.train_labels, settings, random, lambda steps, _: steps
    training.train_closed_set(network, *given)
    return network.eval().requires_grad_(False)


def short(method: Any, size: Size, epochs: int) -> Method:
    """The method with few epochs, all of them of its usual kind."""
    fields = {"epochs": epochs, "batch_size": size.batch, "ebm_start_epoch": 0, "buffer_size": 200, "knn_k": 5}
    if size is TINY:
        fields |= {"sgld_steps": 3, "gan_width": 4}
    return replace(method, **{name: value for name, value in fields.items() if hasattr(method, name)})


def scores(size: Size, task: OpenSetTask, network: Any, device: torch.device, method: Method, kind: str) -> Any:
    """Scores of the task's test images."""
    context = PlainContext(network, training.evaluate(network, task.test_images))
    context.backbone, context.device, context.closed_set = size.backbone, device, recipe(size, augmentation=kind)
    return method.detect(task, context).unknown_score


@contextmanager
def clock(device: torch.device) -> Iterator[list[float]]:
    """Fills in the seconds and the peak MiB (of the process so far on the CPU)."""
    found: list[float] = []
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    yield found
    if device.type == "cuda":
        torch.cuda.synchronize()
        found += [time.perf_counter() - start, torch.cuda.max_memory_allocated() / 2**20]
    else:
        found += [time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10]


def timed(name: str, precision: str, images: int, device: torch.device, run: Callable[[int], object]) -> Row:
    """Measure `run(epochs)`: the difference of three epochs and one is two epochs, the rest other work."""
    run(1)  # what the first call alone costs: kernels chosen, memory taken
    with clock(device) as one:
        run(1)
    with clock(device) as three:
        run(3)
    epoch = (three[0] - one[0]) / 2
    return Row(name, precision, images / epoch if epoch > 0 else None, three[1], max(0.0, one[0] - epoch))


def measure(profile: Profile, labels: Sequence[str], size: Size, device: torch.device, stop: float) -> list[Row]:
    """Every method in full and in mixed precision, until the time `stop`."""
    task, rows = task_of(size), []
    for precision in ("full", "mixed"):
        at = replace(size, backbone=replace(size.backbone, precision=precision)) if precision == "mixed" else size
        network = trained(at, task, device, recipe(at))
        rows.append(
            timed(
                CLOSED_SET,
                precision,
                size.train,
                device,
                lambda epochs, at=at: trained(at, task, device, replace(recipe(at), epochs=epochs)),
            )
        )
        for label in labels:
            if time.monotonic() > stop:
                print(f"time is up: {label} and what follows is left out ({precision})", file=sys.stderr)
                return rows
            method: Any = profile.method(label)
            images = size.test if states(method, "sees_pool") else size.train

            def run(epochs: int, at: Size = at, method: Any = method, network: Any = network) -> object:
                return scores(at, task, network, device, short(method, size, epochs), "flip_or_noise")

            row = timed(label, precision, images, device, run)
            if not hasattr(method, "epochs"):
                row.images_a_second = None
            rows.append(row)
    return rows


def compiled(size: Size, device: torch.device, backend: str) -> list[Row]:
    """The closed-set step as it is, and under torch.compile, which the suite does not offer."""
    task, rows = task_of(size), []
    labels = torch.from_numpy(task.train_labels[: size.batch]).to(device)
    for name in ("closed-set step", "closed-set step, torch.compile"):
        network = build_network(size.backbone, 6, 1, 0).to(device).train()
        step: Any = torch.compile(network, backend=backend) if "compile" in name else network
        optimizer = torch.optim.Adam(network.parameters(), 1e-3)
        x = network.prepare(torch.from_numpy(task.train_images[: size.batch]))

        def run(epochs: int, step: Any = step, x: Any = x, optimizer: Any = optimizer) -> None:
            for _ in range(5 * epochs):
                training.step(optimizer, torch.nn.functional.cross_entropy(step(x), labels))

        try:
            rows.append(timed(name, "full", 5 * size.batch, device, run))
        except Exception as error:  # no compiler on this machine, say
            print(f"{name}: {type(error).__name__}: {str(error).splitlines()[0]}", file=sys.stderr)
    return rows


def agreement(profile: Profile, size: Size, device: torch.device, rows: list[Row]) -> None:
    """Fill in how far the device's numbers are the CPU's: logits at full size, scores after an epoch at a tiny one."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    by_label = {row.method: row for row in rows if row.precision == "full"}
    cpu, task = torch.device("cpu"), task_of(size)
    network = build_network(size.backbone, 6, 1, 0)
    one = training.evaluate(network, task.test_images[:64])
    difference = float(np.abs(training.evaluate(network.to(device), task.test_images[:64]) - one).max())
    by_label[CLOSED_SET].agreement, by_label[CLOSED_SET].agrees = difference, difference <= LOGITS
    task, tiny = task_of(TINY), recipe(TINY, augmentation="geometry")
    state = trained(TINY, task, cpu, replace(tiny, epochs=8)).state_dict()
    for label, row in by_label.items():
        if label not in LABELS:
            continue
        found = []
        for place in (cpu, device):
            network = build_network(TINY.backbone, 6, 1, 0).to(place)
            network.load_state_dict(state)
            network.eval().requires_grad_(False)
            found.append(scores(TINY, task, network, place, short(profile.method(label), TINY, 1), "geometry"))
        row.agreement = float(spearmanr(*found).statistic)
        row.agrees = row.agreement >= RANKS


def paper_cells() -> list[Cell]:
    """The cells of profile `paper` on FERPlus, which need a tree with a few faces to be planned."""
    with TemporaryDirectory() as folder:
        root = Path(folder)
        ferplus_tree(root / "ferplus", render_faces(np.zeros(140, dtype=int), 0))
        place = f'[datasets.ferplus]\nroot = "{root}/ferplus"\n'
        (root / "planned.toml").write_text(load_profile("paper").text.replace("[datasets.ferplus]\n", place), "utf-8")
        return dry_plan(load_profile(str(root / "planned.toml")), Selection(), root / "cache")[0]


def hours(cells: list[Cell], rows: list[Row]) -> tuple[float, list[str]]:
    """Hours of these cells on this device, and the labels that were not measured.

    As many faces in every class; a closed-set model a protocol; the epochs of EOW before it samples count nothing.
    """
    full = {row.method: row for row in rows if row.precision == "full"}
    train, test = FerPlus.published["train"], FerPlus.published["test"]
    seconds, models, unknown = 0.0, set(), set()
    for cell in cells:
        share = len(cell.protocol.closed) / max(1, len(cell.protocol.closed) + len(cell.protocol.open))
        method: Any = cell.method
        name = {"small-loss": "ours"}.get(cell.label, cell.label)
        if name not in full:
            unknown.add(cell.label)
            continue
        images = test + train * (1 - share) if states(method, "sees_pool") else train * share
        epochs = getattr(method, "epochs", 0) - getattr(method, "ebm_start_epoch", 0)
        rate = full[name].images_a_second
        seconds += full[name].other_seconds * 20 if rate is None else epochs * images / rate
        if cell.closed_set_key not in models and (rate := full[CLOSED_SET].images_a_second):
            models.add(cell.closed_set_key)
            seconds += cell.recipe.closed_set.epochs * train * share / rate
    return seconds / 3600, sorted(unknown)


def table_of(rows: list[Row]) -> Table:
    """What is printed."""
    table = Table("method", "precision", "images a second", "peak MiB", "other seconds", "agreement with the CPU")
    for row in rows:
        rate = "" if row.images_a_second is None else f"{row.images_a_second:,.0f}"
        mark = "" if row.agreement is None else f"{row.agreement:.4g} {'yes' if row.agrees else 'NO'}"
        table.add_row(row.method, row.precision, rate, f"{row.peak_mib:,.0f}", f"{row.other_seconds:.2f}", mark)
    return table


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; 1 where the device's numbers are not the CPU's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--json", type=Path, default=Path("build/gpu-check.json"), help="file of the same numbers")
    parser.add_argument("--label", action="append", help="measure these labels alone")
    chosen = parser.parse_args(arguments)
    started, device = time.monotonic(), choose_device(chosen.device)
    is_card = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if is_card else "the CPU"
    if not is_card:
        print("no card is used: a dry pass at a tiny size on the CPU, whose numbers say nothing of a card")
    size = FULL if is_card else TINY
    profile, cells = load_profile("paper"), paper_cells()
    rows = measure(profile, chosen.label or LABELS, size, device, started + SECONDS - 60 * is_card)
    rows += compiled(size, device, "inductor" if is_card else "eager")
    agreement(profile, size, device, rows)
    total, unknown = hours(cells, rows)
    Console(width=140).print(table_of(rows))
    print(
        f"{name}, {size.pixels} px, {size.backbone.name}, batches of {size.batch}; agreement: largest difference of "
        f"logits at most {LOGITS:g}, rank correlation of scores after an epoch at {TINY.pixels} px at least {RANKS:g}"
    )
    print(f"{time.monotonic() - started:.0f} s; profile paper on FERPlus, {len(cells)} cells", end="")
    print(f": about {total:.1f} hours" if is_card else "", f"(not measured: {', '.join(unknown)})" * bool(unknown))
    chosen.json.parent.mkdir(parents=True, exist_ok=True)
    found = {"device": name, "torch": torch.__version__, "pixels": size.pixels, "backbone": size.backbone.name}
    found |= {"cells": len(cells), "paper_hours": total if is_card else None, "rows": [asdict(row) for row in rows]}
    chosen.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    return int(any(row.agrees is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
