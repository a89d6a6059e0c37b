"""Closed-set models behind a URL: fetched whole, shared once, and a store that fails costs a warning alone."""

from __future__ import annotations

import pytest

from open_set_fer.benchmark.storage.checkpoints import ModelStore
from open_set_fer.errors import SuiteError


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "home" / "model.safetensors"
    path.parent.mkdir()
    path.write_bytes(b"weights")
    return path


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_a_model_of_one_home_is_found_by_another(tmp_path, model, kind):
    url = f"file://{tmp_path}/shared/models" if kind == "file" else "memory://shared/models"
    other = tmp_path / "other.safetensors"
    assert not ModelStore(url).fetch(tmp_path / model.name)
    ModelStore(url).share(model)
    (tmp_path / "elsewhere").mkdir()
    other = tmp_path / "elsewhere" / model.name
    assert ModelStore(url).fetch(other)
    assert other.read_bytes() == b"weights"


def test_what_is_there_stays_unless_it_is_to_be_replaced(tmp_path, model):
    store = ModelStore(f"file://{tmp_path}/shared")
    store.share(model)
    model.write_bytes(b"others")
    store.share(model)
    assert (tmp_path / "shared" / model.name).read_bytes() == b"weights"
    store.share(model, replace=True)
    assert (tmp_path / "shared" / model.name).read_bytes() == b"others"


def test_a_store_that_fails_is_a_warning(tmp_path, model, caplog):
    (tmp_path / "shared").write_text("a file where the folder should be")
    store = ModelStore(f"file://{tmp_path}/shared")
    store.share(model)
    assert "does not take model.safetensors" in caplog.text
    assert not store.fetch(tmp_path / model.name)
    assert not (tmp_path / model.name).exists()


def test_an_address_of_no_known_kind_names_the_mend_and_no_password():
    with pytest.raises(SuiteError, match="cannot be used") as caught:
        ModelStore("nosuch://me:secret@host/models")
    assert "s3://bucket/models" in caught.value.fix
    assert "secret" not in str(caught.value)
