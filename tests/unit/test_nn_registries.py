"""The names of networks, neurons and rules are known where torch is not."""

from __future__ import annotations

import subprocess
import sys


def test_listing_plugins_imports_no_torch():
    code = (
        "import sys; from fedcore.nn.models import MODELS; from fedcore.nn.neurons import NEURONS;"
        "from fedcore.nn.learning_rules import LEARNING_RULES;"
        "print(MODELS.names(), NEURONS.names(), LEARNING_RULES.names(), 'torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.endswith("False\n")
