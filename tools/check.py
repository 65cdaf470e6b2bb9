"""Everything that must hold before a commit: style, types, import contracts, generated code, tests.

`python tools/check.py` runs all; `python tools/check.py lint types` only those; arguments after
`--` go to pytest. "tests" share the processors, "clusters" (whole runs, in many processes) follow
alone.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
PYTEST = [sys.executable, "-m", "pytest"]
CLUSTERS = "tests/integration"

CHECKS = {
    "format": [str(BIN / "ruff"), "format", "--check", "."],
    "lint": [str(BIN / "ruff"), "check", "."],
    "types": [str(BIN / "mypy")],
    "contracts": [str(BIN / "lint-imports")],
    "protos": [sys.executable, "tools/gen_protos.py", "--check"],
    "tests": [*PYTEST, "--numprocesses=logical", "--maxprocesses=4", f"--ignore={CLUSTERS}"],
    "clusters": [*PYTEST, CLUSTERS],
}


def main() -> int:
    """Run the checks in order; return 1 when one failed, after all have run."""
    own, _, rest = " ".join(sys.argv[1:]).partition("--")
    wanted = own.split() or list(CHECKS)
    failed = []
    for name in wanted:
        print(f"== {name}", flush=True)
        started_s = time.monotonic()
        command = CHECKS[name] + (rest.split() if "pytest" in CHECKS[name] else [])
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            failed.append(name)
        print(f"== {name}: {time.monotonic() - started_s:.0f} s", flush=True)
    print("all checks hold" if not failed else f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
