"""Training checkpoints that are whole or not there, for pretraining and fine-tuning alike.

A Trainer writes into `.staging`; when every rank is done, rank 0 hashes and fsyncs the files, writes the manifest and
renames the folder to `checkpoint-N`. A run continues from the newest checkpoint whose hashes are right.
"""

import json
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, ProgressCallback, Trainer

from narae.artifact import hash_file, sync
from narae.log import Mistake, rank, say


class CheckpointTrainer(Trainer):
    """The Trainer, with its checkpoints staged and published. `save_total_limit` keeps its meaning."""

    _staging: Path | None = None

    def __init__(self, **words: Any):
        super().__init__(**words)
        for chatty in (PrinterCallback, ProgressCallback):  # narae/follow.py's Follow speaks for the run
            self.remove_callback(chatty)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._staging) if self._staging else super()._get_output_dir(trial)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        run, step = Path(str(self.args.output_dir)), self.state.global_step
        final = run / f"checkpoint-{step}"
        keep, self.args.save_total_limit = self.args.save_total_limit, None  # rotation would look into the staging
        self._staging = run / ".staging"
        if rank() == 0:
            shutil.rmtree(self._staging, ignore_errors=True)
        barrier()
        try:
            super()._save_checkpoint(model, trial)
            self._name_best(run)
            self.leave(self._staging / final.name)
            barrier()  # every rank's random states are written
            if rank() == 0:
                publish(self._staging / final.name, final)
                self._staging.rmdir()
                rotate(run, keep, {f"checkpoint-{step}" for step in (self.state.best_global_step, *self.spared())})
            barrier()
        finally:
            self._staging, self.args.save_total_limit = None, keep

    def _name_best(self, run: Path) -> None:
        """Trainer wrote down that the best lies in the staging. Where no path stands it keeps what rotation keeps."""
        assert self._staging is not None
        best = self.args.load_best_model_at_end and self.state.best_global_step
        self.state.best_model_checkpoint = str(run / f"checkpoint-{best}") if best else None
        if rank() == 0:
            file = self._staging / f"checkpoint-{self.state.global_step}" / "trainer_state.json"
            self.state.save_to_json(str(file))

    def leave(self, checkpoint: Path) -> None:
        """All ranks: what a kind of training adds to its checkpoints."""

    def spared(self) -> set[int]:
        """Steps whose checkpoints are kept however many there are, besides the best."""
        return set()


def barrier() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def part() -> None:
    """The end of a run: ranks wait for each other, and close what connects them.

    Left to the interpreter's end, threads of gloo are now and then destroyed while they run: SIGABRT after a good run.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        barrier()
        torch.distributed.destroy_process_group()


def publish(staged: Path, final: Path) -> None:
    files = {}
    for file in sorted(path for path in staged.rglob("*") if path.is_file()):
        files[str(file.relative_to(staged))] = {"bytes": file.stat().st_size, "sha256": hash_file(file)}
        sync(file)
    manifest = staged / "manifest.json"
    manifest.write_text(json.dumps({"kind": "checkpoint", "files": files}, indent=1), encoding="utf-8")
    sync(manifest)
    sync(staged)
    if final.exists():  # a damaged one that the run came past again
        shutil.rmtree(final)
    staged.rename(final)
    sync(final.parent)


def checkpoints(run: Path) -> list[Path]:
    """Newest first."""
    found = [path for path in run.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    return sorted(found, key=lambda path: -int(path.name.removeprefix("checkpoint-")))


def rotate(run: Path, keep: int | None, spared: Collection[str] = ()) -> None:
    for old in checkpoints(run)[keep or None :] if keep else []:
        if old.name not in spared:
            shutil.rmtree(old)


def damage(checkpoint: Path) -> str:
    """What is wrong with it, or nothing."""
    try:
        manifest = json.loads((checkpoint / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "its manifest is missing or unreadable"
    for name, known in manifest["files"].items():
        file = checkpoint / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != known["bytes"]:
            return f"{name} has {file.stat().st_size:,} bytes instead of {known['bytes']:,}"
        if hash_file(file) != known["sha256"]:
            return f"{name} does not have the hash that was written down"
    return ""


def last_good(run: Path) -> Path | None:
    """The checkpoint to continue from: the newest that is whole. A damaged one is named and passed over."""
    found = checkpoints(run)
    for checkpoint in found:
        wrong = damage(checkpoint)
        if not wrong:
            return checkpoint
        say(f"{checkpoint} is damaged ({wrong}): going back to the one before")
    if found:
        raise Mistake(f"none of the {len(found)} checkpoints in {run} is whole: remove them to start from step 0")
    return None
