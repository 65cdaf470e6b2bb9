"""What the file system refuses is told with the advice that its reason asks for."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from fedcore.errors import StorageError
from testbed.study.results import StudyFolder


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "make room"),
        (errno.EDQUOT, "make room"),
        (errno.EACCES, "allow this user to write there"),
        (errno.EROFS, "name a folder on a disk that can be written"),
        (errno.ENOTDIR, "move the file that stands where a folder must be"),
        (errno.EIO, "put that right"),
    ],
)
def test_only_a_full_disk_asks_for_room(number: int, advice: str) -> None:
    said = str(StorageError.of("a/b", OSError(number, os.strerror(number)), then="go on"))
    assert said.startswith(f"a/b: {os.strerror(number)}; {advice}")
    assert said.endswith(" and go on")
    assert ("room" in said) == (advice == "make room")


def test_a_study_whose_folder_is_a_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(StorageError, match=r"move the file .*start the same study again"):
        StudyFolder(tmp_path / "out").hold()
