"""A closed-set training that is stopped goes on after its last kept epoch, to the same numbers bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from open_set_fer.methods.shared import unfinished
from open_set_fer.methods.shared.backbones import build_network
from open_set_fer.methods.shared.recipe import BackboneSettings, ClosedSetSettings
from open_set_fer.methods.shared.training import train_closed_set
from open_set_fer.methods.shared.unfinished import Unfinished

EPOCHS, STOPPED = 5, 3


class Gone(Exception):
    pass


def trained(steps, kept=None, width=4, **settings):
    """The network's state and the curves after a training, and the epochs that it went through."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (40, 1, 24, 24)).astype(np.uint8), np.arange(40) % 3
    torch.manual_seed(3)
    network = build_network(BackboneSettings("small", width=width), 3, 1, 0)
    recipe = ClosedSetSettings(epochs=EPOCHS, batch_size=16, **settings)
    epochs = []

    def progress(epochs_to_do, _):
        for epoch in steps(epochs_to_do):
            yield epoch
            epochs.append(epoch)

    generator = torch.Generator().manual_seed(1)
    curves = train_closed_set(network, images, labels, recipe, generator, progress, None, kept)
    return network.state_dict(), curves, epochs


def until_stopped(epochs):
    for epoch in epochs:
        if epoch == STOPPED:
            raise Gone
        yield epoch


@pytest.mark.parametrize(
    "settings", [{"schedule": "exponential"}, {"schedule": "one_cycle", "augmentation": "geometry"}]
)
def test_a_stopped_training_goes_on_to_the_same_numbers(tmp_path, monkeypatch, settings):
    monkeypatch.setattr(unfinished, "COST", 1e9)  # every epoch
    state, curves, _ = trained(list, **settings)
    kept = Unfinished(tmp_path / "key.unfinished")
    with pytest.raises(Gone):
        trained(until_stopped, kept, **settings)
    assert kept.path.exists()
    again, same, epochs = trained(list, Unfinished(kept.path), **settings)
    assert epochs == list(range(STOPPED, EPOCHS))
    assert same == curves
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())


def test_a_damaged_file_or_one_of_another_network_is_named_and_costs_the_beginning(tmp_path, caplog):
    state, curves, _ = trained(list)
    kept = Unfinished(tmp_path / "key.unfinished")
    with pytest.raises(Gone):
        trained(until_stopped, kept, width=2)
    for content, said in ((None, "another network"), (kept.path.read_bytes()[:-5], "damaged"), (b"", "damaged")):
        if content is not None:
            kept.path.write_bytes(content)
        caplog.clear()
        again, same, epochs = trained(list, Unfinished(kept.path))
        assert said in caplog.text
        assert (epochs, same) == (list(range(EPOCHS)), curves)
        assert all(torch.equal(again[name], tensor) for name, tensor in state.items())


def test_epochs_much_shorter_than_a_write_are_not_all_kept(tmp_path, monkeypatch):
    kept, states = Unfinished(tmp_path / "key.unfinished"), []
    clock = iter([10.0, 11.0, 12.0, 31.5])  # a write of one second; then after one second, and after more than twenty
    monkeypatch.setattr(unfinished.time, "monotonic", lambda: next(clock, 32.0))
    for epoch in range(3):
        kept.after_epoch(lambda epoch=epoch: states.append(epoch) or {})
    assert states == [0, 2]
