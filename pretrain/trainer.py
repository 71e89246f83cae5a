"""The pretraining loop: transformers' Trainer, fed by computed positions and judged in bits per byte."""

import contextlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments, get_scheduler
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from narae.checkpoint import checkpoints, step_of
from narae.follow import Follow, memory_mb
from narae.log import Mistake, rank, say
from narae.mixture import Mixture
from narae.order import share
from narae.pulse import beat
from narae.ranks import first_says
from narae.saving import CheckpointTrainer
from narae.zero import stage
from pretrain.batches import Batches, leave_signals_to_the_rank
from pretrain.evaluation import BrokenOff, Judge
from pretrain.guard import Guard, Verdict, clean_skips, only_finite
from pretrain.optimizer import create, gradients, with_norm
from pretrain.rollback import Watch
from pretrain.segments import COURSE, Course, fingerprint, read_course


class SaveBeforeDecay(TrainerCallback):
    """A longer run goes on from where the learning rate had not begun to fall."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        control.should_save |= state.global_step == self.step < state.max_steps and args.save_strategy != "no"


class JudgeWhatIsOwed(TrainerCallback):
    """A signal broke off the evaluation at the step from which this run goes on."""

    def __init__(self, trainer: "Pretrainer"):
        self.trainer = trainer

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.trainer.owes and args.eval_strategy != "no":
            try:
                best = self.trainer._determine_best_metric(self.trainer._evaluate(None, None), None)
                if best:  # it was saved before that was known
                    self.trainer.saved(state.global_step, best, 0.0, 0.0)
            except BrokenOff:
                self.trainer.follow.stopped(state.global_step)
        self.trainer.owes = False


class Pretrainer(CheckpointTrainer):
    owes = False  # the evaluation of the step that it has come to

    def __init__(
        self,
        rows: Mixture,
        course: Course,
        batches: Batches,
        judge: Judge,
        follow: Follow,
        guard: Guard,
        rule: dict[str, Any],
        decay_step: int,
        flops_per_token: float,
        matmul_per_s: float,
        **words: Any,
    ):
        """`rule`: which optimizer, and what it wants to know beyond `args`. `decay_step`: where the learning rate of
        warmup_stable_decay begins to fall; else the last step.
        """
        super().__init__(eval_dataset=judge.held_out, callbacks=[follow, SaveBeforeDecay(decay_step)], **words)
        self.rows, self.course, self.batches, self.judge, self.follow = rows, course, batches, judge, follow
        self.guard = guard
        self.add_callback(JudgeWhatIsOwed(self))
        self.add_callback(Watch(self))
        self.rule, self.decay_step = rule, decay_step
        self.flops_per_token, self.matmul_per_s = flops_per_token, matmul_per_s
        self.tokens = 0  # loss-bearing, on all ranks, until the last record
        self._window = np.zeros(3, np.int64)  # since then, on this rank: loss-bearing tokens, rows, their fingerprint
        self._stage = stage(self.args)
        self._weight: Any = 1.0  # of a micro-batch: its tokens beside those of the others
        self._last = False  # of a step's micro-batches
        self._loss = self._mean = torch.zeros(())  # of a step: this rank's share, and that of all
        self._norm: Any = None  # of its gradient
        self._steps = self._no_numbers = 0  # since the last record; and those whose loss was not finite
        self._guarded = False
        self.model_accepts_loss_kwargs = False  # training_step weighs by itself

    def get_train_dataloader(self) -> DataLoader[Any]:
        # Not prepared by accelerate, which would reach a resume position by reading everything before it
        workers, factor = self.args.dataloader_num_workers, self.args.dataloader_prefetch_factor
        # With a generator of its own: a loader draws a number as it starts, and a run that went on would be one ahead
        own = torch.Generator()
        return DataLoader(
            self.batches,
            batch_size=None,
            num_workers=workers,
            prefetch_factor=factor,
            generator=own,
            worker_init_fn=leave_signals_to_the_rank,
        )

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            if not OptimizerNames(self.args.optim).value.startswith("adamw_torch"):  # another of transformers' own
                super().create_optimizer()
            else:
                weights: Any = model or self.model
                self.optimizer = create(weights, self.args, **self.rule, stage=self._stage)
            assert self.optimizer is not None
            if self._stage is None or (self._stage == 0 and not (self.args.bf16 or self.args.fp16)):
                only_finite(self.optimizer, self._norm_before)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Transformers' own schedule, read at the share of the rows that a step has reached: no ramp bends it."""
        if self.lr_scheduler is None:
            steps = num_training_steps
            words: dict[str, Any] = dict(self.args.lr_scheduler_kwargs or {})  # type: ignore[arg-type]
            if self.args.lr_scheduler_type == SchedulerType.WARMUP_STABLE_DECAY:
                words = {"num_decay_steps": steps - self.decay_step, **words}
            kind, warmup = self.args.lr_scheduler_type, self.args.get_warmup_steps(steps)
            self.lr_scheduler = get_scheduler(kind, optimizer or self.create_optimizer(), warmup, steps, words)
            if len({one.batch_rows for one in self.course.segments}) > 1:
                if not hasattr(self.lr_scheduler, "lr_lambdas"):
                    name = getattr(kind, "value", kind)
                    raise Mistake(f"--lr_scheduler_type {name} knows no course ahead, which --batch_ramp needs")
                per_row = steps / self.course.rows
                self.lr_scheduler.lr_lambdas = [
                    lambda step, at=at: at(self.course.position(step) * per_row)  # type: ignore[misc]
                    for at in self.lr_scheduler.lr_lambdas
                ]
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def training_step(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> torch.Tensor:
        """A whole step. Trainer's own accumulation has one length for a run; here each step brings its own.

        The loss is the mean over all tokens of the step, whichever ranks and micro-batches they lie in.
        """
        if "mistake" in inputs:
            raise Mistake(inputs["mistake"], every_rank=True)
        if self._stage == 0:
            with_norm(model)
        elif self._stage and not self._guarded:
            clean_skips(model.optimizer)
            self._guarded = True
        parts, mine = inputs["micro"], inputs["rows"].numpy()
        counts = [int((part["labels"][:, 1:] >= 0).sum()) for part in parts]
        total = torch.tensor(float(sum(counts)), device=self.args.device)
        if self.args.world_size > 1:
            torch.distributed.all_reduce(total)
        self.current_gradient_accumulation_steps = len(parts)
        self._loss, self._norm = torch.zeros((), device=self.args.device), None
        step = self.state.global_step
        if step and self.course.segment(step).phase != self.course.segment(step - 1).phase:
            self.guard.losses.clear()  # another mixture has another loss
        for number, (part, count) in enumerate(zip(parts, counts, strict=True), start=1):
            beat(f"step {self.state.global_step + 1}: micro-batch {number} of {len(parts)}", self.state.global_step)
            last = self._last = number == len(parts)
            self._weight = count * len(parts) * self.args.world_size / total
            self.accelerator.gradient_state._set_sync_gradients(last)
            together = last or self.is_deepspeed_enabled  # which asks for the flag above
            with contextlib.nullcontext() if together else self.accelerator.no_sync(model):
                super().training_step(model, part)
        begin, rows = self.course.position(step), self.course.segment(step).batch_rows
        begin += share(rows, self.args.process_index, self.args.world_size)[0]
        self._window += sum(counts), len(mine), fingerprint(begin, mine)
        return torch.where(torch.isfinite(self._mean), self._loss, 0.0)

    def compute_loss(self, model: Any, inputs: dict[str, Any], *words: Any, **more: Any) -> Any:
        loss = super().compute_loss(model, inputs, *words, **more) * self._weight
        self._loss += loss.detach() / self.current_gradient_accumulation_steps
        if self._last:
            self._mean = self._loss.clone()
            if self.args.world_size > 1:
                torch.distributed.all_reduce(self._mean)
                self._mean /= self.args.world_size
            loss = loss * self.guard.factor(self._mean)
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        found = super()._get_grad_norm(model, grad_norm=grad_norm)
        self._norm = self._norm if found is None else found
        return self._norm

    def _norm_before(self, optimizer: torch.optim.Optimizer) -> Any:
        """Trainer asks for the norm before the update, but where DeepSpeed makes it: there stage 0 in fp32 knows it if
        it clips.
        """
        if self._stage == 0:
            self._norm = getattr(self.model_wrapped, "_global_grad_norm", None)
        if self._norm is None:
            self._norm = torch.nn.utils.get_total_norm(list(gradients(optimizer)))
        return self._norm

    def verdict(self) -> Verdict | None:
        """Of the step behind. In fp16 the loss is scaled up until gradients overflow: that is no reason."""
        loss = self._mean.item()
        self._steps, self._no_numbers = self._steps + 1, self._no_numbers + (not math.isfinite(loss))
        norm = None if self.args.fp16 or self._norm is None else float(self._norm)
        return self.guard.judge(loss, norm)

    def go_back(self, checkpoint: Path, course: Course) -> None:
        """All ranks: as if the run had just come to this checkpoint, with another course ahead."""
        self.restore(checkpoint)
        self._load_rng_state(str(checkpoint))
        self._load_scaler(str(checkpoint))
        known, was = read_course(checkpoint), TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        for name in ("global_step", "log_history", "total_flos", "best_metric", "best_global_step"):
            setattr(self.state, name, getattr(was, name))
        best = was.best_model_checkpoint
        self.state.best_model_checkpoint = best if best and Path(best).is_dir() else None
        self.course = self.batches.course = course
        self.batches.first_step = self._globalstep_last_logged = was.global_step
        self.tokens, self._steps, self._no_numbers = known["tokens"], 0, 0
        self.guard.load(known["guard"])
        self._window[:] = 0
        self._tr_loss.zero_()

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return int(self.flops_per_token * inputs["rows"].numel() * self.rows.sequence_length)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The Trainer's figures with ours beside them, so that every tracker has them, too."""
        if "loss" in logs:
            seconds = self.follow.lap()
            window = torch.from_numpy(self._window).to(self.args.device)
            if self.args.world_size > 1:
                torch.distributed.all_reduce(window)
            if self._no_numbers:  # Trainer shares the loss among all steps
                good = self._steps - self._no_numbers
                logs["loss"] = logs["loss"] * self._steps / good if good else math.nan
            self._steps = self._no_numbers = 0
            tokens, rows, mark = window.tolist()
            self._window[:] = 0
            self.tokens += tokens
            speed = tokens / seconds
            logs |= {
                "tokens": self.tokens,
                "rows": self.course.position(self.state.global_step),
                "tokens_per_s": round(speed, 1),
                "mfu": round(speed / self.args.world_size * self.flops_per_token / self.matmul_per_s, 4),
                "memory_mb": memory_mb(),
                "seconds": round(seconds, 3),
            }
            epochs = self.epochs()
            self.state.epoch = sum(epochs.values()) / len(epochs)
            one = len(epochs) == 1
            self.follow.details = {"rows_hash": f"{rows}:{mark:x}", "epoch": self.state.epoch if one else epochs}
        super().log(logs, start_time)

    def epochs(self) -> dict[str, float]:
        """How often each set has been read."""
        read = self.course.read(self.state.global_step)
        return {one.artifact.name: round(count / len(one), 4) for one, count in zip(self.rows.sets, read, strict=True)}

    def _maybe_log_save_evaluate(self, *words: Any, **more: Any) -> None:
        try:
            super()._maybe_log_save_evaluate(*words, **more)
        except BrokenOff:
            self.owes = self.control.should_log = self.control.should_save = self.control.should_training_stop = True
            self.control.should_evaluate = False
            super()._maybe_log_save_evaluate(*words, **more)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:  # type: ignore[override]
        """Figures of the held-out rows, and what the model writes; both are written down. A signal breaks it off,
        where a later start can do it.
        """
        step, agreed = self.state.global_step, self.follow.stopper.agreed
        saved = Path(str(self.args.output_dir)) / f"checkpoint-{step}"
        waits = self.is_in_train or first_says(saved.is_dir)
        with self.follow.aside() as took:
            found = self.judge.figures(self.model_wrapped, (lambda: agreed(self.args.device)) if waits else None)
        sources = found.pop("sources")
        metrics = {f"eval_{key}": value for key, value in found.items()}
        metrics |= {f"eval_{name}_bits_per_byte": one["bits_per_byte"] for name, one in sources.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        write = self.follow.folder.metrics.write
        write("eval", step=step, **found, seconds=round(took["seconds"], 3), sources=sources)
        with self.follow.aside() as took:
            written = self.judge.samples(self.model_wrapped)
        for prompt, text in written:
            write("sample", step=step, prompt=prompt, text=text)
        write("samples", step=step, seconds=round(took["seconds"], 3))
        worst = max(sources.items(), key=lambda one: one[1]["bits_per_byte"], default=None)
        beside = f", worst {worst[0]} {worst[1]['bits_per_byte']:.3f}" if worst and len(sources) > 1 else ""
        say(
            f"step {step:,}  held out: {found['bits_per_byte']:.3f} bits per byte{beside}, "
            f"{found['accuracy']:.1%} of next tokens right"
        )
        self.follow.refresh_report()
        return metrics

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        wanted = str(self.args.metric_for_best_model)
        if f"eval_{wanted.removeprefix('eval_')}" not in metrics:
            known = ", ".join(key.removeprefix("eval_") for key in metrics if key.startswith("eval_"))
            raise Mistake(f"--metric_for_best_model {wanted}: the evaluation has {known}")
        best = super()._determine_best_metric(metrics, trial)
        if best and self.args.save_strategy != "no":
            self.control.should_save = True  # the best is kept, whenever it comes
        return bool(best)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with self.follow.aside():
            super()._save_checkpoint(model, trial)

    def saved(self, step: int, best: bool, stalled: float, seconds: float) -> None:
        words = {"seconds": round(stalled, 3), "whole": round(seconds, 3), "best": best}
        self.follow.folder.metrics.write("save", step=step, **words)

    def not_saved(self, step: int, reason: str) -> None:
        self.follow.folder.metrics.write("save_failed", step=step, reason=reason)
        super().not_saved(step, reason)

    def leave(self, checkpoint: Path) -> None:
        """What a run that goes on wants to know beyond transformers' own state."""
        step = self.state.global_step
        known = {
            "history": self.course.history(step),
            "steps": self.course.steps,
            "decay_step": self.decay_step,
            "tokens": self.tokens + self._counted(),
            "owes": self.owes,
            "guard": self.guard.state(),
        }
        if rank() == 0:
            (checkpoint / COURSE).write_text(json.dumps(known), encoding="utf-8")

    def _counted(self) -> int:
        """Loss-bearing tokens since the last record, on all ranks."""
        count = torch.tensor(int(self._window[0]), device=self.args.device)
        if self.args.world_size > 1:
            torch.distributed.all_reduce(count)
        return int(count)

    def spared(self) -> set[int]:
        """See SaveBeforeDecay. And where bad steps may lead back to."""
        found = {self.decay_step}
        if self.guard.skipped:
            before = self.state.global_step - self.guard.skipped
            run = Path(str(self.args.output_dir))
            found |= set(sorted(step for one in checkpoints(run) if (step := step_of(one)) <= before)[-1:])
        return found
