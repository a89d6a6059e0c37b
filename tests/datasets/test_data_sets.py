"""Every registered data set: its settings hold their bounds."""

from __future__ import annotations

import pytest

from open_set_fer.benchmark.profiles import load_profile
from open_set_fer.errors import SuiteError

SMOKE = load_profile("smoke")[2]


@pytest.mark.parametrize(
    ("table", "key", "value", "message"),
    [
        ("ferplus", "image_size", "0", "greater than or equal to 8"),
        ("rafdb", "image_size", "-1", "greater than or equal to 8"),
        ("rafdb_compound", "image_size", "20000", "less than or equal to 1024"),
        ("affectnet", "image_size", "20000", "less than or equal to 1024"),
        ("manifest", "image_size", "0", "greater than or equal to 8"),
        ("cifar10", "image_size", "0", "greater than or equal to 8"),
        ("digits", "image_size", "0", "greater than or equal to 8"),
        ("digits", "test_share", "1.0", "less than 1"),
        ("synthetic", "image_size", "15", "greater than or equal to 16"),
        ("synthetic", "train_per_class", "-1", "greater than or equal to 0"),
    ],
)
def test_a_setting_out_of_bounds_names_itself(tmp_path, table, key, value, message):
    start = SMOKE.index("[datasets.synthetic]")
    rest = SMOKE.index("\n[", start)
    path = tmp_path / "own.toml"
    path.write_text(f"{SMOKE[:start]}[datasets.{table}]\n{key} = {value}\n{SMOKE[rest:]}", "utf-8")
    with pytest.raises(SuiteError, match=rf"datasets\.{table}\.{key}: .*{message} \(got {value}\)"):
        load_profile(str(path))
