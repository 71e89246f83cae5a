"""A file that could not be written, as those say it who write: each library in words of its own."""

import re


def unwritten(error: Exception) -> str:
    """Why a file could not be written; nothing where the error says something else."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    # tokenizers raises a plain Exception, safetensors one of its own, both with the system's words
    system = re.search(r"([^:]+) \(os error \d+\)", str(error))
    if system:
        return system[1].strip()
    # torch.save counts its bytes, and knows no reason
    short = re.search("inline_container|StreamWriter|iostream error", str(error))
    return "torch.save wrote less than it should have" if short else ""
