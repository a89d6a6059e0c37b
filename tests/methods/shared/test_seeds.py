"""Random numbers from a generator alone."""

from __future__ import annotations

import torch

from open_set_fer.methods.shared.seeds import draw_seed, seeded


def test_seeds_are_the_generators():
    generator = torch.Generator().manual_seed(3)
    seeds = [draw_seed(generator) for _ in range(3)]
    generator.manual_seed(3)
    assert seeds == torch.randint(2**62, (3,), generator=generator).tolist()
    assert len(set(seeds)) == 3


def test_seeded_layers_repeat_and_the_global_generator_goes_on_as_if_nothing_was():
    before = torch.random.get_rng_state()
    layers = []
    for seed in (5, 5, 6):
        with seeded(seed):
            layers.append(torch.nn.Linear(3, 2).weight)
    assert torch.equal(layers[0], layers[1])
    assert not torch.equal(layers[0], layers[2])
    assert torch.equal(torch.random.get_rng_state(), before)
