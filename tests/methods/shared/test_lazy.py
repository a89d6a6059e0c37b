"""Planning imports every method; none of them imports torch before it is used."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
from open_set_fer import plugins
from open_set_fer.methods.shared import lazy
kinds = [plugins.load(plugins.METHODS, name) for name in plugins.available(plugins.METHODS)]
assert len(kinds) >= 8, kinds
assert not {'torch', 'torchvision', 'pytorch_ood', 'cleanlab', 'sklearn'} & set(sys.modules), sorted(sys.modules)
assert lazy.torch.ones(2).sum() == 2
import torch, torch.nn.functional, open_set_fer.methods.shared.training
assert lazy.nn.Linear is torch.nn.Linear
assert lazy.F.relu is torch.nn.functional.relu
assert lazy.training.evaluate is open_set_fer.methods.shared.training.evaluate
try:
    lazy.torch.no_such_thing
except AttributeError as error:
    assert "no_such_thing" in str(error)
"""


def test_methods_import_torch_when_they_use_it():
    done = subprocess.run([sys.executable, "-c", CODE], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
