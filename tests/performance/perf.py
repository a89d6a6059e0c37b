"""Speed as ratios measured in one run (`make perf`): ours against the plain way on the same data, never a timed test."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from open_set_fer.benchmark.protocols import enumerate_protocols, make_task, split_faces
from open_set_fer.datasets.decoding import ImageFiles
from open_set_fer.datasets.ferplus import USAGES, VOTES, FerPlus
from open_set_fer.datasets.rendering import render_faces
from open_set_fer.methods.augmentation import random_erase


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """The best of a few repeats."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


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


def main() -> None:
    """Print the table of ratios."""
    table = Table("what", "plain", "suite", "ratio")

    def row(what: str, count: int, plain: float, ours: float) -> None:
        table.add_row(what, f"{count / plain:,.0f}/s", f"{count / ours:,.0f}/s", f"{plain / ours:.2f}x")

    with tempfile.TemporaryDirectory() as folder:
        faces = render_faces(np.arange(6000) % 19, seed=0)
        large = render_faces(np.arange(1500) % 19, seed=0, size=256)
        paths = []
        for index, face in enumerate(large):
            paths.append(f"{folder}/{index}.jpg")
            Image.fromarray(face[0]).save(paths[-1], quality=90)
        list(ImageFiles(paths[:600], 64, 3).chunks(0))  # starts the worker processes
        plain, ours = seconds(lambda: plain_decode(paths)), seconds(lambda: list(ImageFiles(paths, 64, 3).chunks(0)))
        row("decode 256 px JPEG to 64 px RGB (plain: one process, PIL)", len(paths), plain, ours)

        root = Path(folder) / "ferplus"
        ferplus_tree(root, faces)

        def first_batch() -> None:
            data = FerPlus(root=str(root)).load(Path(folder) / "cache")
            protocol = enumerate_protocols(data.classes, ("single",))[0]
            make_task(data, protocol, split_faces(data, protocol, 0), 0).train_images[:128].copy()

        first, second = seconds(first_batch, 1), seconds(first_batch)
        row("first batch of 6,000 faces (plain: first start)", len(faces), first, second)

    x = torch.rand(512, 1, 48, 48)
    generator = torch.Generator().manual_seed(0)
    plain, ours = seconds(lambda: plain_erase(x)), seconds(lambda: random_erase(x, generator))
    row("random erasing of a batch (plain: torchvision, by image)", len(x), plain, ours)
    Console().print(table)


if __name__ == "__main__":
    main()
