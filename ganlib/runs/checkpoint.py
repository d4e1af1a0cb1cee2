"""Files that hold all that training changes: whole at every moment, checked when they are read."""

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import torch

from ganlib.records import replacing

MARK = b"\nganlib checkpoint, SHA-256 "  # with the digest of what stands before, a file's end
END = len(MARK) + hashlib.sha256().digest_size


def save_checkpoint(path: str | Path, contents: dict[str, Any]) -> None:
    """Write containers of tensors and numbers, such as what `state_dict` returns, to a file.

    The file is complete at every moment, and can be loaded: ValueError for other contents (an
    array of NumPy, a figure), which leaves the previous file. Its end is a checksum of the rest.
    """
    buffer = io.BytesIO()  # torch.save hides the OSError of a full disk
    torch.save(contents, buffer)
    buffer.seek(0)
    try:
        torch.load(buffer, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"tensors, numbers, strings and containers of them expected: {error}"
        ) from error
    with replacing(path) as file:
        file.write(buffer.getbuffer())
        file.write(MARK + hashlib.sha256(buffer.getbuffer()).digest())


def load_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """What `save_checkpoint` wrote; no code in the file is run.

    OSError (FileNotFoundError, ...) for a file that cannot be read, ValueError for a foreign or
    damaged one: a single changed bit is found.
    """
    whole = memoryview(Path(path).read_bytes())
    body, end = whole[:-END], bytes(whole[-END:])
    if not end.startswith(MARK):
        raise ValueError(
            f"a checkpoint of ganlib expected, {path} is none: it lacks the checksum at the end "
            "(foreign, cut, or of an earlier version)"
        )
    if end != MARK + hashlib.sha256(body).digest():
        raise ValueError(
            f"a checkpoint of ganlib expected, {path} is damaged: its checksum is another; take "
            "an earlier copy, or train again"
        )
    try:
        contents = torch.load(io.BytesIO(body), map_location=device, weights_only=True)
    except Exception as error:  # whatever foreign contents do to an unpickler
        raise ValueError(f"a checkpoint of ganlib expected, {path} is none") from error
    if not isinstance(contents, dict):
        raise ValueError(f"a checkpoint of ganlib expected, {path} holds {type(contents).__name__}")
    return contents
