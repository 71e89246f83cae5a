"""Tensors to disk in one pass, and copied aside while training goes on."""

import errno
import fcntl
import hashlib
import json
import mmap
import os
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
CHUNK = 1 << 24


def write(file: Path, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """A safetensors file, on the disk when this returns, hashed while it is written: its bytes and its sha256.

    The library's own writer leaves the hash to a second pass over the file, and holds the interpreter's lock.
    """
    header: dict[str, Any] = {}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    digest, size = hashlib.sha256(), 0
    room = memoryview(mmap.mmap(-1, CHUNK))  # in whole pages of memory, as `direct` wants it
    place = np.asarray(room)
    with file.open("wb", buffering=0) as out:
        direct(out.fileno(), True)
        for data in (struct.pack("<Q", len(text)), text, *(raw(tensor.cpu()) for tensor in tensors.values())):
            left = np.frombuffer(data, np.uint8)
            while len(left):
                begin = size % CHUNK
                part, left = left[: CHUNK - begin], left[CHUNK - begin :]
                np.copyto(place[begin : begin + len(part)], part)
                size += len(part)
                if size % CHUNK == 0:
                    digest.update(room)
                    put(out.fileno(), room)
        digest.update(room[: size % CHUNK])
        put(out.fileno(), room[: size % CHUNK])
        os.fsync(out.fileno())
    return {"bytes": size, "sha256": digest.hexdigest()}


def put(file: int, data: memoryview) -> None:
    while data:
        try:
            data = data[os.write(file, data) :]
        except OSError as error:  # a length that is no multiple of a block, as at the end
            if error.errno != errno.EINVAL or not direct(file, False):
                raise


def direct(file: int, wanted: bool) -> bool:
    """Past the page cache, which takes ten times the processor time of the disk's own write. Whether that changed."""
    flag, now = getattr(os, "O_DIRECT", 0), fcntl.fcntl(file, fcntl.F_GETFL)
    if bool(now & flag) == wanted:
        return False
    try:
        fcntl.fcntl(file, fcntl.F_SETFL, now ^ flag)
    except OSError:  # this file system knows no such way
        return False
    return True


def raw(tensor: torch.Tensor) -> Any:
    data: Any = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(data)


class Snapshot:
    """Copies of tensors that stand still until the next update, made while forward and backward passes run.

    The memory is kept for the next time: touching new pages takes longer than copying.
    """

    watched = False  # somebody waits before each update

    def __init__(self) -> None:
        self._kept: dict[str, torch.Tensor] = {}
        self._error: Exception | None = None
        self._done = threading.Event()
        self._done.set()

    def take(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Returns the copies, which are right after `wait`."""
        self._kept = {name: self._room(name, tensor) for name, tensor in tensors.items()}
        self._done.clear()
        copy = self._gpu(tensors) if any(tensor.is_cuda for tensor in tensors.values()) else self._memory(tensors)

        def behind() -> None:
            try:
                copy()
            except Exception as error:
                self._error = error
            finally:
                self._done.set()

        threading.Thread(target=behind, name="snapshot", daemon=True).start()
        return self._kept

    def wait(self) -> None:
        self._done.wait()
        if self._error is not None:
            raise self._error

    def _room(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        kept = self._kept.get(name)
        if kept is not None and kept.shape == tensor.shape and kept.dtype == tensor.dtype:
            return kept
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)

    def _memory(self, tensors: dict[str, torch.Tensor]) -> Callable[[], None]:
        def copy() -> None:
            for name, tensor in tensors.items():
                np.copyto(np.asarray(raw(self._kept[name])), np.asarray(raw(tensor)))

        return copy

    def _gpu(self, tensors: dict[str, torch.Tensor]) -> Callable[[], None]:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for name, tensor in tensors.items():
                self._kept[name].copy_(tensor, non_blocking=True)
        return stream.synchronize  # type: ignore[no-any-return]
