"""The Trainer, with checkpoints of our own (narae/checkpoint.py), for pretraining and fine-tuning alike.

Each rank writes what it holds (narae/states.py) into `.staging` and hashes it on the way; when all have, rank 0
publishes. With `--save_async` that happens behind the next steps.
"""

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers.trainer
from transformers import PrinterCallback, ProgressCallback, Trainer

from narae import pulse, states
from narae.checkpoint import STATES, checkpoints, publish, read_states, rotate
from narae.log import Mistake, rank, say
from narae.ranks import barrier, first_says, gathered
from narae.room import unwritten
from narae.tensors import Snapshot, write

# It would look for DeepSpeed's own files. CheckpointTrainer loads ours, for every stage.
transformers.trainer.deepspeed_load_checkpoint = lambda *_, **__: None  # type: ignore[attr-defined]


class CheckpointTrainer(Trainer):
    """The Trainer, with checkpoints of our own. `save_total_limit` and `save_only_model` keep their meaning."""

    model: Any
    mark = ""  # of the run: a checkpoint of another one is not taken for its own
    _staging: Path | None = None
    _saving: "Saving | None" = None
    unsaved = ""  # why the last checkpoint could not be written

    def __init__(self, **words: Any):
        super().__init__(**words)
        self._snapshot = Snapshot()
        for chatty in (PrinterCallback, ProgressCallback):  # narae/follow.py's Follow speaks for the run
            self.remove_callback(chatty)

    def train(self, *words: Any, **more: Any) -> Any:
        found = super().train(*words, **more)
        self.settle()
        if self.unsaved and self.state.global_step < self.state.max_steps:
            raise Mistake(
                f"stopped after step {self.state.global_step:,}, which could not be saved ({self.unsaved}): "
                "make room, and the same command goes on from the newest checkpoint"
            )
        return found

    # Saving

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._staging) if self._staging else super()._get_output_dir(trial)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with pulse.long(f"saving checkpoint-{self.state.global_step}", self._patience()):
            self._write_checkpoint(model, trial)

    def _write_checkpoint(self, model: Any, trial: Any) -> None:
        self.settle()
        began = time.monotonic()
        run, step = Path(str(self.args.output_dir)), self.state.global_step
        keep, self.args.save_total_limit = self.args.save_total_limit, None  # rotation would look into the staging
        self._staging = run / ".staging"
        staged = self._staging / f"checkpoint-{step}"
        self.unsaved = ""
        try:
            if rank() == 0:
                shutil.rmtree(self._staging, ignore_errors=True)
                staged.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self.unsaved = unwritten(error)
        barrier()
        save = super()._save_checkpoint
        try:
            # Each whatever became of the one before: the others wait in what ranks do together
            for write_one in (lambda: save(model, trial), lambda: self._name_best(run), lambda: self.leave(staged)):
                try:
                    write_one()
                except Exception as error:
                    if not unwritten(error):
                        raise
                    self.unsaved = self.unsaved or unwritten(error)
        finally:
            self._staging, self.args.save_total_limit = None, keep
        spared = {f"checkpoint-{one}" for one in (self.state.best_global_step, *self.spared())}
        best = self.state.best_global_step == step
        saving = self._saving = Saving(
            run / staged.name,
            staged,
            self.args.world_size,
            {"run": self.mark, "step": step},
            lambda: rotate(run, keep, spared, getattr(self.args, "keep_every", 0)),
            self.unsaved,
        )
        pieces = states.pieces(self.model, self.optimizer, rank(), self.args.world_size, self.args.save_only_model)
        if not getattr(self.args, "save_async", False):
            saving.write(pieces)
            self.settle()
            if not self.unsaved:
                seconds = time.monotonic() - began
                self.saved(step, best, seconds, seconds)
            return
        # What is copied changes with the next update. Muon under ZeRO changes its momentum earlier.
        copied = self._snapshot.take(pieces)
        base = states.bottom(self.optimizer)
        if any(group.get("use_muon") for group in base.param_groups):
            self._snapshot.wait()
        elif not self._snapshot.watched:
            base.register_step_pre_hook(lambda *_: self._snapshot.wait())
            self._snapshot.watched = True
        stalled = time.monotonic() - began

        def behind() -> None:
            aside()
            saving.write(copied, self._snapshot.wait)
            if saving.published:
                self.saved(step, best, stalled, time.monotonic() - began)
            elif saving.error and rank() == 0 and not self._stops():  # of the others the next save hears
                saving.told = True
                say(self._unsaved(step, saving.error))

        saving.thread = threading.Thread(target=behind, name="saving", daemon=True)
        saving.thread.start()

    def settle(self) -> None:
        """All ranks: the checkpoint that is being written is published, or is known not to be."""
        saving, self._saving = self._saving, None
        if saving is None:
            return
        with pulse.long(f"waiting until {saving.final.name} is written", self._patience()):
            self._settle(saving)

    def _patience(self) -> float:
        """Seconds that a slow file system may take for a checkpoint: weights and two states of each, in fp32."""
        sizes = (getattr(one, "ds_numel", one.numel()) for one in self.model.parameters())  # type: ignore[union-attr]
        return 12 * sum(sizes) / pulse.SLOWEST

    def _settle(self, saving: "Saving") -> None:
        errors = [one for one in gathered(saving.written()) if one]
        self.unsaved = errors[0] if errors else ""
        if rank() == 0:
            self.unsaved = saving.finish(give_up=bool(errors)) or self.unsaved
        self.unsaved = first_says(lambda: self.unsaved)
        if self.unsaved:
            self.not_saved(int(saving.about["step"]), self.unsaved)
            if self._stops():
                raise Mistake(self._unsaved(int(saving.about["step"]), self.unsaved))
            if not saving.told:
                say(self._unsaved(int(saving.about["step"]), self.unsaved))

    def not_saved(self, step: int, reason: str) -> None:
        """A checkpoint was given up."""
        del step, reason
        if rank() == 0:
            shutil.rmtree(Path(str(self.args.output_dir)) / ".staging", ignore_errors=True)

    def _stops(self) -> bool:
        return getattr(self.args, "if_disk_full", "go_on") == "stop"

    def _unsaved(self, step: int, reason: str) -> str:
        whole = checkpoints(Path(str(self.args.output_dir)))
        older = f"{whole[0].name} and older ones are whole" if whole else "there is no older one"
        end = "make room, and run the same command" if self._stops() else "training goes on without it"
        return f"step {step:,} could not be saved ({reason}), {older}: {end}"

    def saved(self, step: int, best: bool, stalled: float, seconds: float) -> None:
        """A checkpoint was published: training waited so long for it, and it took so long."""

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        if self._staging is None:
            super().save_model(output_dir, _internal_call)
        elif self.args.should_save:
            # A checkpoint's weights are in its states; this tells what they are weights of
            try:
                self.model.config.save_pretrained(str(output_dir))
                if self.processing_class is not None:
                    self.processing_class.save_pretrained(str(output_dir))  # type: ignore[union-attr]
            except Exception as error:  # said when all ranks have come through the barrier that follows
                if not unwritten(error):
                    raise
                self.unsaved = unwritten(error)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / "scheduler.pt")  # type: ignore[union-attr]

    def _name_best(self, run: Path) -> None:
        """Trainer wrote down that the best lies in the staging. Where no path stands it keeps what rotation keeps."""
        assert self._staging is not None
        best = self.args.load_best_model_at_end and self.state.best_global_step
        self.state.best_model_checkpoint = str(run / f"checkpoint-{best}") if best else None
        if rank() == 0:
            staged = self._staging / f"checkpoint-{self.state.global_step}"
            self.state.save_to_json(str(staged / "trainer_state.json"))
            about = {
                "ranks": self.args.world_size,
                "weights_only": self.args.save_only_model,
                "dtype": str(next(self.model.parameters()).dtype).removeprefix("torch."),
                "loss_scale": loss_scale(self.optimizer),
            }
            (staged / STATES).write_text(json.dumps(about), encoding="utf-8")

    def leave(self, checkpoint: Path) -> None:
        """All ranks: what a kind of training adds to its checkpoints."""

    def spared(self) -> set[int]:
        """Steps whose checkpoints are kept however many there are, besides the best."""
        return set()

    # Going on

    def restore(self, checkpoint: Path) -> None:
        """All ranks: weights, optimizer and schedule of a checkpoint into the live, prepared trainer."""
        self.settle()
        about = read_states(checkpoint)
        states.load(checkpoint, self.model, self.optimizer, bool(about["weights_only"]))
        if about["weights_only"]:
            return
        set_loss_scale(self.optimizer, about["loss_scale"])
        scheduler: Any = self.lr_scheduler
        scheduler.load_state_dict(torch.load(checkpoint / "scheduler.pt", weights_only=True))
        rates = scheduler.get_last_lr()
        if hasattr(scheduler, "lr_lambdas"):
            # A run that grew has another schedule from here on
            rates = [
                rate * at(scheduler.last_epoch)
                for rate, at in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
            ]
        for group, rate in zip(states.bottom(self.optimizer).param_groups, rates, strict=True):
            group["lr"] = rate

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Weights come with the optimizer's states, when that is there."""

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            with pulse.long(f"reading {Path(checkpoint).name}", pulse.seconds_for(Path(checkpoint))):
                self.restore(Path(checkpoint))

    def _load_best_model(self) -> None:
        self.settle()
        states.load(Path(str(self.state.best_model_checkpoint)), self.model, self.optimizer, weights_only=True)


class Saving:
    """One checkpoint on its way. Ranks tell each other by files, so that it can happen behind the training."""

    def __init__(
        self,
        final: Path,
        staged: Path,
        ranks: int,
        about: dict[str, Any],
        rotate: Callable[[], None],
        error: str = "",
    ):
        self.final, self.staged, self.ranks, self.about, self.rotate = final, staged, ranks, about, rotate
        self.error, self.published, self.told = error, False, False
        self.bug: Exception | None = None
        self.thread: threading.Thread | None = None
        self._written, self._given_up = threading.Event(), threading.Event()

    def write(self, pieces: dict[str, torch.Tensor], ready: Callable[[], None] = lambda: None) -> None:
        """This rank's states, and how they are known again. Rank 0 goes on to publish, where it is in a thread."""
        name = f"states-{rank():05d}-of-{self.ranks:05d}.safetensors"
        try:
            ready()
            if not self.error:
                known = write(self.staged / name, pieces)
                told = self.staged / f".{rank():05d}.json"
                told.with_suffix(".part").write_text(json.dumps({name: known}), encoding="utf-8")
                told.with_suffix(".part").rename(told)
        except Exception as error:
            self.error = unwritten(error)
            if not self.error:
                self.bug = error
            (self.staged / name).unlink(missing_ok=True)
        self._written.set()
        if rank() == 0 and self.thread is not None and not (self.error or self.bug):
            self._publish()

    def written(self) -> str:
        """Waits for this rank's part; what went wrong with it."""
        self._written.wait()
        if self.bug is not None:
            raise self.bug
        return self.error

    def finish(self, give_up: bool) -> str:
        """Rank 0, when all have written: published, or what went wrong."""
        if give_up:
            self._given_up.set()
        if self.thread is not None:
            self.thread.join()
        elif not give_up:
            self._publish()
        return self.error

    def _publish(self) -> None:
        """Rank 0. Behind the training nobody says that the others have written: their files do."""
        try:
            told = [self.staged / f".{one:05d}.json" for one in range(self.ranks)]
            while not all(file.exists() for file in told):
                if self._given_up.wait(0.02):
                    return
            hashed: dict[str, Any] = {}
            for file in told:
                hashed |= json.loads(file.read_text(encoding="utf-8"))
                file.unlink()
            publish(self.staged, self.final, self.about, hashed)
            self.staged.parent.rmdir()
            self.published = True
            self.rotate()
        except OSError as error:
            if not self.published:
                self.error = unwritten(error)
            else:
                say(f"{self.final.name} is there, but older ones could not be removed: {error}")


def aside() -> None:
    """This thread takes what the others leave of the processors, where a thread has a priority of its own."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


def loss_scale(optimizer: Any) -> dict[str, Any]:
    """What fp16 under DeepSpeed has learned about scaling. Without it accelerate's scaler is saved by Trainer."""
    scaler = _scaler(optimizer)
    return (
        {key: value for key, value in vars(scaler).items() if isinstance(value, bool | int | float)} if scaler else {}
    )


def set_loss_scale(optimizer: Any, values: dict[str, Any]) -> None:
    scaler = _scaler(optimizer)
    for key, value in values.items() if scaler else ():
        if hasattr(scaler, key):
            setattr(scaler, key, value)


def _scaler(optimizer: Any) -> Any:
    zero = states.zero_optimizer(optimizer)
    return getattr(zero, "loss_scaler", None) or getattr(zero, "loss_scale_config", None)
