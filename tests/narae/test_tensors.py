"""What is written is what the library reads, with the hash of what lies on the disk; copies are of one moment."""

import errno
import fcntl
import os
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from narae import tensors
from narae.artifact import hash_file

SOME = {
    "matrix": torch.arange(12.0).view(3, 4),
    "turned": torch.arange(12.0).view(3, 4).T,
    "narrow": torch.linspace(0, 1, 5, dtype=torch.bfloat16),
    "number": torch.tensor(3),
    "flag": torch.tensor([True, False]),
    "empty": torch.zeros(0),
}


def test_the_library_reads_it(tmp_path: Path) -> None:
    known = tensors.write(tmp_path / "some.safetensors", SOME)
    found = load_file(tmp_path / "some.safetensors")
    assert found.keys() == SOME.keys()
    for name, tensor in SOME.items():
        assert torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype, name
    assert known == {
        "bytes": (tmp_path / "some.safetensors").stat().st_size,
        "sha256": hash_file(tmp_path / "some.safetensors"),
    }


def test_more_than_a_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "CHUNK", 16)
    known = tensors.write(tmp_path / "some.safetensors", SOME)
    assert known["sha256"] == hash_file(tmp_path / "some.safetensors")
    assert torch.equal(load_file(tmp_path / "some.safetensors")["turned"], SOME["turned"])


@pytest.mark.parametrize("refused", ["", "asked for", "written"])
def test_past_the_page_cache_and_where_that_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    """Whole pages go to the disk directly, a bit at a time where it takes no more; the end of the file does not."""
    monkeypatch.setattr(tensors, "CHUNK", 8192)
    write, control, ways = os.write, fcntl.fcntl, []

    def short(file: int, data: memoryview) -> int:
        directly = bool(control(file, fcntl.F_GETFL) & os.O_DIRECT)
        if directly and (refused or len(data) % 4096):
            raise OSError(errno.EINVAL, "refused")
        ways.append(directly)
        return write(file, data[:4096])

    def answer(file: int, command: int, *words: int) -> int:
        if refused == "asked for" and command == fcntl.F_SETFL:
            raise OSError(errno.EINVAL, "refused")
        return control(file, command, *words)

    monkeypatch.setattr(tensors.os, "write", short)
    monkeypatch.setattr(tensors.fcntl, "fcntl", answer)
    large = {"large": torch.arange(5000.0), "small": torch.ones(3)}
    known = tensors.write(tmp_path / "some.safetensors", large)
    assert ways == [not refused] * 4 + [False]  # of 20,012 bytes and a header of less than 468
    assert known == {"bytes": known["bytes"], "sha256": hash_file(tmp_path / "some.safetensors")}
    assert all(torch.equal(found, large[name]) for name, found in load_file(tmp_path / "some.safetensors").items())


def test_copies_are_of_the_moment_and_their_memory_is_kept() -> None:
    snapshot, live = tensors.Snapshot(), {"a": torch.ones(3), "b": torch.tensor(2.0)}
    first = snapshot.take(live)
    snapshot.wait()
    live["a"].fill_(5)
    assert first["a"].tolist() == [1, 1, 1] and first["b"] == 2
    again = snapshot.take(live)
    snapshot.wait()
    assert again["a"].data_ptr() == first["a"].data_ptr() and again["a"].tolist() == [5, 5, 5]
    grown = snapshot.take({"a": torch.ones(4)})
    snapshot.wait()
    assert grown["a"].tolist() == [1, 1, 1, 1] and "b" not in grown


def test_what_goes_wrong_behind_comes_to_the_front(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        assert threading.current_thread() is not threading.main_thread()
        raise MemoryError("no room")

    monkeypatch.setattr(tensors.np, "copyto", fail)
    snapshot = tensors.Snapshot()
    snapshot.take({"a": torch.ones(3)})
    with pytest.raises(MemoryError, match="no room"):
        snapshot.wait()
