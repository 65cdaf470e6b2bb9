"""hardware runs on a bare board: none of its modules pulls in a heavy package."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "torchvision", "matplotlib", "sklearn", "skimage", "scipy", "grpc", "onnxruntime"}


def test_every_module_is_light() -> None:
    files = sorted((ROOT / "hardware").rglob("*.py"))
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files]
    code = (
        f"import importlib, sys\nfor name in {modules}: importlib.import_module(name)\n"
        "print(*{name.partition('.')[0] for name in sys.modules}, sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert "hardware" in loaded
    assert not loaded & HEAVY


def test_the_names_for_everybody_come_from_the_package_itself() -> None:
    """And only when they are used: the sampler's process imports the package, too."""
    code = (
        "import hardware, sys\nassert 'hardware.window' not in sys.modules\n"
        "from hardware import Recorder, Window, measured\n"
        "assert measured is sys.modules['hardware.window'].measured\n"
        "assert not hasattr(hardware, 'nothing')\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
