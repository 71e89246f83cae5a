"""Training checkpoints that are whole or not there, for pretraining and fine-tuning alike.

Each rank writes what it holds (narae/states.py) into `.staging` and hashes it on the way; when all have, rank 0 writes
the manifest and renames the folder to `checkpoint-N`. With `--save_async` that happens behind the next steps. A run
continues from the newest checkpoint whose hashes are right.
"""

import json
import shutil
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers.trainer
from transformers import PrinterCallback, ProgressCallback, Trainer

from narae import pulse, states
from narae.artifact import hash_file, sync
from narae.log import Mistake, rank, say
from narae.room import unwritten
from narae.tensors import Snapshot, write

T = TypeVar("T")
FORMAT = 2
STATES = "states.json"

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
            self._snapshot.wait()
            saving.write(copied)
            if saving.published:
                self.saved(step, best, stalled, time.monotonic() - began)

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

    def not_saved(self, step: int, reason: str) -> None:
        if rank() == 0:
            shutil.rmtree(Path(str(self.args.output_dir)) / ".staging", ignore_errors=True)
        whole = checkpoints(Path(str(self.args.output_dir)))
        older = f"{whole[0].name} and older ones are whole" if whole else "there is no older one"
        if getattr(self.args, "if_disk_full", "go_on") == "stop":
            raise Mistake(f"step {step:,} could not be saved ({reason}), {older}: make room, and run the same command")
        say(f"step {step:,} could not be saved ({reason}), {older}: training goes on without it")

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
        self.error, self.published = error, False
        self.bug: Exception | None = None
        self.thread: threading.Thread | None = None
        self._written, self._given_up = threading.Event(), threading.Event()

    def write(self, pieces: dict[str, torch.Tensor]) -> None:
        """This rank's states, and how they are known again. Rank 0 goes on to publish, where it is in a thread."""
        name = f"states-{rank():05d}-of-{self.ranks:05d}.safetensors"
        try:
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


def barrier() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def gathered(value: T) -> list[T]:
    """Of every rank."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    found: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, value)
    return found


def first_says(find: Callable[[], T]) -> T:
    """What rank 0 finds, for all of them: its mistakes, too."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return find()
    box: list[Any] = [None]
    if rank() == 0:
        try:
            box = [find()]
        except Mistake as mistake:
            box = [mistake]
    torch.distributed.broadcast_object_list(box)
    if isinstance(box[0], Mistake):
        raise Mistake(box[0].message)
    return box[0]  # type: ignore[no-any-return]


def part() -> None:
    """The end of a run: ranks wait for each other, and close what connects them.

    Left to the interpreter's end, threads of gloo are now and then destroyed while they run: SIGABRT after a good run.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        barrier()
        torch.distributed.destroy_process_group()


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


def publish(staged: Path, final: Path, about: dict[str, Any], hashed: dict[str, Any] | None = None) -> None:
    """`hashed`: files whose hashes are known, and which are on the disk."""
    files = dict(hashed or {})
    for file in sorted(path for path in staged.rglob("*") if path.is_file()):
        name = str(file.relative_to(staged))
        if name not in files:
            files[name] = {"bytes": file.stat().st_size, "sha256": hash_file(file)}
            sync(file)
    manifest = staged / "manifest.json"
    known = {"kind": "checkpoint", "format": FORMAT, **about, "files": files}
    manifest.write_text(json.dumps(known, indent=1), encoding="utf-8")
    sync(manifest)
    sync(staged)
    if final.exists():  # a damaged one that the run came past again
        shutil.rmtree(final)
    staged.rename(final)
    sync(final.parent)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def checkpoints(run: Path) -> list[Path]:
    """Newest first."""
    found = [path for path in run.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdecimal()]
    return sorted(found, key=lambda path: -step_of(path))


def rotate(run: Path, keep: int | None, spared: Collection[str] = (), every: int = 0) -> None:
    """Keep the newest, those that are spared, and those at multiples of `every`."""
    for old in checkpoints(run)[keep or None :] if keep else []:
        if old.name not in spared and not (every and step_of(old) % every == 0):
            shutil.rmtree(old)


def read_states(checkpoint: Path) -> dict[str, Any]:
    file = checkpoint / STATES
    if not file.is_file():
        raise Mistake(f"{checkpoint} has no {STATES}, so it is of an older version: --overwrite starts the run anew")
    return json.loads(file.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def damage(checkpoint: Path, mark: str = "", among: tuple[int, int] = (0, 1)) -> str:
    """What is wrong with it, or nothing. `among`: this rank out of how many, which share the reading."""
    try:
        manifest = json.loads((checkpoint / "manifest.json").read_text(encoding="utf-8"))
        files, step, run = manifest["files"], manifest.get("step"), manifest.get("run", "")
        listed = sorted((name, known["bytes"], known["sha256"]) for name, known in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "its manifest is missing or unreadable"
    if manifest.get("kind") != "checkpoint" or manifest.get("format") != FORMAT:
        return f"its manifest is of format {manifest.get('format')}, this version reads {FORMAT}"
    if step != step_of(checkpoint):
        return f"it is that of step {step} under another name"
    if mark and run != mark:
        return "it is of a run with another configuration"
    for name, size, digest in listed[among[0] :: among[1]]:
        file = checkpoint / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size:,} bytes instead of {size:,}"
        if hash_file(file) != digest:
            return f"{name} does not have the hash that was written down"
    foreign = sorted({file.name for file in checkpoint.glob("states-*")} - files.keys())
    if foreign:  # which would be read as a part of it
        return f"{foreign[0]} does not belong to it"
    return ""


def last_good(run: Path, mark: str = "", before: int | None = None) -> Path | None:
    """The checkpoint to continue from: the newest that is whole, of a step up to `before`. All ranks take part.

    A damaged one is named and passed over.
    """
    found = first_says(lambda: checkpoints(run))
    found = [one for one in found if before is None or step_of(one) <= before]
    ranks = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    for checkpoint in found:
        wrong = next(filter(None, gathered(damage(checkpoint, mark, (rank() % ranks, ranks)))), "")
        if not wrong:
            return checkpoint
        say(f"{checkpoint} is damaged ({wrong}): going back to the one before")
    if found and before is None:
        raise Mistake(f"none of the {len(found)} checkpoints in {run} is whole: remove them to start from step 0")
    return None
