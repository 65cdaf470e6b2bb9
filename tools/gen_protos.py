"""Generate the Python side of protos/v1; with --check, only compare with what is committed."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("protos/v1/types.proto", "protos/v1/rounds.proto", "protos/v1/tap.proto")


def generate(into: Path) -> None:
    """Run protoc on every source; pyproject pins grpcio-tools because gencode is versioned."""
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"--proto_path={ROOT}",
            f"--python_out={into}",
            f"--pyi_out={into}",
            f"--grpc_python_out={into}",
            *SOURCES,
        ],
        check=True,
        cwd=ROOT,
    )


def main() -> int:
    """Return 0 when the committed code is what protoc makes of the sources."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail on a difference")
    if not parser.parse_args().check:
        generate(ROOT)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        made = sorted(p.relative_to(folder) for p in Path(folder).rglob("*_pb2*"))
        stale = [
            p
            for p in made
            if not (ROOT / p).exists() or (ROOT / p).read_bytes() != (folder / p).read_bytes()
        ]
    if stale:
        print(f"stale generated code: {', '.join(map(str, stale))}; run python tools/gen_protos.py")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
