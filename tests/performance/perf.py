"""Speed as ratios measured in one run (`make perf`): the suite and the plain way in turn, never a timed test."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from open_set_fer.benchmark.protocols.protocol import enumerate_protocols
from open_set_fer.benchmark.protocols.task import make_task, split_faces
from open_set_fer.datasets.decoding import ImageFiles
from open_set_fer.datasets.ferplus import USAGES, VOTES, FerPlus
from open_set_fer.datasets.synthetic.renderer import render_faces
from open_set_fer.methods.shared.augmentation import random_erase
from tests.performance.cells import null_cells, planned, side_by_side
from tests.performance.epochs import epochs
from tests.performance.photos import photos
from tests.performance.rows import Row, pairs


def plain_decode(paths: list[str]) -> np.ndarray:
    """What a user would write first: one process, one image at a time."""
    faces = []
    for path in paths:
        with Image.open(path) as image:
            faces.append(np.asarray(image.convert("RGB").resize((64, 64), Image.Resampling.BILINEAR)))
    return np.stack(faces)


def plain_erase(x: torch.Tensor) -> torch.Tensor:
    """torchvision's RandomErasing, image by image."""
    from torchvision.transforms import RandomErasing

    erase = RandomErasing(p=0.5, scale=(0.02, 0.25))
    return torch.stack([erase(image) for image in x])


def ferplus_tree(root: Path, faces: np.ndarray) -> None:
    """Rendered faces in FERPlus' layout."""
    lines = [",".join(["Usage", "Image name", *VOTES])]
    for index, face in enumerate(faces):
        usage = ("Training", "PrivateTest", "PublicTest")[0 if index % 10 < 8 else 1 + index % 2]
        folder = root / USAGES[usage][1]
        folder.mkdir(parents=True, exist_ok=True)
        name = f"fer{index:07d}.png"
        Image.fromarray(face[0]).save(folder / name)
        lines.append(",".join([usage, name, *("10" if index // 10 % 7 == k else "0" for k in range(len(VOTES)))]))
    (root / "fer2013new.csv").write_text("\n".join(lines) + "\n", "utf-8")


def decoding(root: Path) -> list[Row]:
    """Pictures into arrays, and a data set's second start against its first."""
    faces = render_faces(np.arange(6000) % 19, seed=0)
    large = render_faces(np.arange(1500) % 19, seed=0, size=256)
    paths = []
    for index, face in enumerate(large):
        paths.append(f"{root}/{index}.jpg")
        Image.fromarray(face[0]).save(paths[-1], quality=90)
    list(ImageFiles(paths[:600], 64, 3).chunks(0))  # starts the worker processes
    decoded, decoded_note = pairs(lambda: list(ImageFiles(paths, 64, 3).chunks(0)), lambda: plain_decode(paths), 3)

    tree = root / "ferplus"
    ferplus_tree(tree, faces)

    def first_batch(cache: Path) -> float:
        start = time.perf_counter()
        data = FerPlus(root=str(tree)).load(cache)
        protocol = enumerate_protocols(data.classes, ("single",))[0]
        make_task(data, protocol, split_faces(data, protocol, 0), 0).train_images[:128].copy()
        return time.perf_counter() - start

    starts = [(first_batch(root / f"cache{n}"), first_batch(root / f"cache{n}")) for n in range(3)]
    return [
        Row("one process with PIL against decoding of 256 px JPEG to 64 px", decoded, note=decoded_note),
        Row("first start against the second: first batch of 6,000 faces", [a / b for a, b in starts]),
    ]


def erasing(_: Path) -> list[Row]:
    """Random erasing of a batch."""
    x = torch.rand(512, 1, 48, 48)
    generator = torch.Generator().manual_seed(0)
    ratios, note = pairs(lambda: random_erase(x, generator), lambda: plain_erase(x), 5)
    return [Row("torchvision's random erasing, by image, against by batch", ratios, note=note)]


PARTS = {
    "decoding": decoding,
    "erasing": erasing,
    "epochs": epochs,
    "plan": planned,
    "jobs": side_by_side,
    "null": null_cells,
    "photos": photos,
}


def main() -> None:
    """Print the table of ratios; arguments: the parts to measure. Exit code 1 where an aim is missed."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    load = os.getloadavg()[0]
    chosen = sys.argv[1:] or list(PARTS)
    table = Table("what", "median", "spread (repeats)", "aim", "made of")
    rows: list[Row] = []
    for part in chosen:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            found = PARTS[part](Path(folder))
        rows += found
        for row in found:
            table.add_row(*row.cells())
            print(" | ".join(row.cells()), file=sys.stderr)
        print(f"{part}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    Console(width=180).print(table)
    print(
        f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"load {load:.1f} before and {os.getloadavg()[0]:.1f} after"
    )
    missed = [row.what for row in rows if not row.is_met]
    sys.exit("aims missed: " + "; ".join(missed) if missed else 0)


if __name__ == "__main__":
    main()
