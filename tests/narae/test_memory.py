"""Memory that stays with the process: counted in pages that the system had to fill anew."""

import subprocess
import sys

import pytest
from helpers import HOME

from narae import memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what is counted is glibc's doing")
STEPS = 10
# glibc keeps no block of more than 32 MiB unasked. The first steps settle: a few bytes that lie between two blocks, and
# are kept for the next who wants as few, part up to eight of them.
SCRIPT = f"""
import ctypes, resource, threading, torch
from narae.memory import keep_memory

def steps():
    for _ in range({STEPS}):
        torch.ones(40 * 2**20, dtype=torch.uint8)

def pages():
    steps()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    steps()
    found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

found = []
pages()
assert keep_memory()
pages()
thread = threading.Thread(target=pages)
thread.start()
thread.join()

library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.sbrk.restype, library.sbrk.argtypes = ctypes.c_void_p, [ctypes.c_ssize_t]
library.free.argtypes = [ctypes.c_void_p]
begin = library.sbrk(0)
held = library.malloc(5 * 2**29)
found.append(library.sbrk(0) - begin)
library.free(held)
found.append(library.sbrk(0) - begin)
print(*found)
"""


@pytest.fixture(scope="module")
def counted() -> list[int]:
    """In a process whose environment has no settings of memory."""
    plain = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(HOME), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=plain)
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


def test_a_step_takes_the_pages_of_the_one_before(counted: list[int]) -> None:
    given_back, kept, _, _, _ = counted
    assert given_back >= STEPS * 40 / 2  # pages of 4 KiB, or of 2 MiB
    assert kept <= given_back / 10


def test_so_does_a_step_in_a_thread(counted: list[int]) -> None:
    """Whose own heap holds 64 MiB at most."""
    given_back, _, kept, _, _ = counted
    assert kept <= given_back / 10


def test_more_than_two_gigabytes_stay_as_well(counted: list[int]) -> None:
    """Nothing is written to them, so they take no memory: where the process's data end says what it holds."""
    *_, taken, left = counted
    assert taken > 2**31 and left == taken


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"])
def test_settings_of_ones_own_stand(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda *_: pytest.fail("it asked for the C library"))
    assert memory.keep_memory() is False


def without_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(memory.os.environ):
        if name.startswith("MALLOC_") or name == "GLIBC_TUNABLES":
            monkeypatch.delenv(name)


def test_another_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    without_settings(monkeypatch)
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda *_: object())
    assert memory.keep_memory() is False


def test_another_system(monkeypatch: pytest.MonkeyPatch) -> None:
    without_settings(monkeypatch)
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda *_: pytest.fail("Windows has none without a name"))
    monkeypatch.setattr(memory.sys, "platform", "win32")
    assert memory.keep_memory() is False
