"""Reading npz files that may be damaged or made by a stranger."""

from __future__ import annotations

import io
import zipfile

import numpy as np

__all__ = ["read_npz"]

# AttributeError or TypeError, by Python's version, where one plain array is no archive.
_UNREADABLE = (
    OSError,
    EOFError,
    AttributeError,
    TypeError,
    KeyError,
    NotImplementedError,
    zipfile.BadZipFile,
)


def read_npz(blob: bytes) -> dict[str, np.ndarray]:
    """All arrays of an archive; pickled objects are never loaded.

    Raises:
        ValueError: this is no archive of plain arrays.
    """
    try:
        with np.load(io.BytesIO(blob), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except _UNREADABLE as error:
        raise ValueError(str(error)) from error
