"""Every kind of broken, lying or hostile file ends in one line that names the file and the place, in little memory, and is not executed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.corpus import CORPUS, VALID, pickled_column
from tests.corpus_parts import MARKER
from tests.reading import Reader


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    child = Reader()
    yield child
    child.close()


@pytest.mark.parametrize("name", CORPUS)
def test_one_line_that_says_what_is_wrong(name: str, reader: Reader, tmp_path: Path) -> None:
    case = CORPUS[name]
    path = tmp_path / ("log" if case.format == "minari" else f"log.{case.format}")
    case.make(path)
    answer = reader.read(case.format, path)
    assert answer["outcome"] == "SparError", answer["message"]
    assert case.says in answer["message"]
    assert str(path.with_suffix("")) in answer["message"]
    assert "\n" not in answer["message"]
    assert not (tmp_path / MARKER).exists()
    answer = reader.read(case.format, path, strict=False)
    assert answer["outcome"] in ("SparError", "log"), answer["message"]
    assert not (tmp_path / MARKER).exists()


@pytest.mark.parametrize("kind", VALID)
def test_what_the_corpus_spoils_is_good_before(kind: str, reader: Reader, tmp_path: Path) -> None:
    path = tmp_path / ("log" if kind == "minari" else f"log.{kind}")
    VALID[kind](path)
    assert reader.read(kind, path)["outcome"] == "log"


def test_the_hostile_pickle_is_live(tmp_path: Path) -> None:
    """Loaded by a reader that does unpickle, it leaves its marker: that no other reader does is no accident."""
    path, careless = tmp_path / "log.npz", {"allow_pickle": True}
    pickled_column(path)
    with np.load(path, **careless) as file, contextlib.suppress(ValueError):
        file["rewards"]
    assert (tmp_path / MARKER).exists()
