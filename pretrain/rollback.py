"""After too many bad steps in a row: back to the last good checkpoint, without the rows of those steps.

`skipped.jsonl` in the run's folder is the audit log. A `skip` is a step whose update was left out; a `rollback` leaves
places of the run's order out for good, and every later start reads them here; `documents` says where the rows of such
a step come from, as soon as that is looked up.
"""

import contextlib
import shutil
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from narae.artifact import sync
from narae.checkpoint import checkpoints, last_good, step_of
from narae.follow import SKIPPED
from narae.log import Metrics, Mistake, rank, read_metrics, say
from narae.mixture import Mixture
from narae.ranks import barrier, first_says
from pretrain.guard import Verdict
from pretrain.segments import Course, Gap, read_course

MOST = 3  # rollbacks to one and the same checkpoint
WORDS = {
    "nan": "the loss is not a number",
    "infinity": "the loss is infinite",
    "spike": "the loss jumped",
    "gradient": "the gradient is not finite",
}


def gaps_of(run: Path) -> list[Gap]:
    """All ranks: what the run leaves out."""

    def read() -> list[Gap]:
        return [(one[0], one[1], one[2]) for record in rollbacks(run) for one in record["left_out"]]

    return first_says(read)


def rollbacks(run: Path) -> list[dict[str, Any]]:
    return [one for one in read_metrics(run / SKIPPED) if one.get("kind") == "rollback"]


def remove_overtaken(run: Path, course: Course) -> None:
    """All ranks: checkpoints that had read what the course leaves out by now. A kill may have kept them."""
    for checkpoint in checkpoints(run) if rank() == 0 else []:
        with contextlib.suppress(Mistake, OSError, ValueError, KeyError):  # a damaged one is named by who looks for it
            if overtaken(read_course(checkpoint)["history"], course.history(step_of(checkpoint))):
                shutil.rmtree(checkpoint)
    barrier()


def overtaken(was: list[dict[str, Any]], now: list[dict[str, Any]]) -> bool:
    """Whether the course is the same but for gaps that came later."""
    if was == now or [bare(one) for one in was] != [bare(one) for one in now]:
        return False
    return all(
        any(first <= gap[0] and gap[1] <= stop for first, stop in after.get("skipped", []))
        for before, after in zip(was, now, strict=True)
        for gap in before.get("skipped", [])
    )


def bare(segment: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in segment.items() if key != "skipped"}


class Watch(TrainerCallback):
    """Takes what the guard finds to the log, and the trainer back. It must hear of a step's end after all others."""

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self.run: Path = trainer.follow.folder.path
        self.log = Metrics(self.run / SKIPPED)
        self.back_to: Path | None = None
        self.left_out: list[Gap] = []
        self.tracing: list[threading.Thread] = []

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        verdict = self.trainer.verdict()
        if verdict is None:
            return
        guard, step = self.trainer.guard, state.global_step
        first = step - guard.skipped + 1  # steps as metrics.jsonl counts them, from 1 on
        figures = asdict(verdict)
        if guard.skipped <= guard.max_skips:
            count = f"{guard.skipped} of {guard.max_skips} in a row"
            say(f"step {step:,}: {told(verdict)}: its update is left out, {count}")
            self.write("skip", step, step, figures, action="skipped")
            if self.trainer.accelerator.optimizer_step_was_skipped:  # so Trainer left the schedule where it was
                self.trainer.lr_scheduler.step()
            return
        self.trainer.settle()
        self.back_to = last_good(self.run, self.trainer.mark, before=first - 1)
        self.left_out = self.trainer.course.places(first - 1, step)
        to = step_of(self.back_to) if self.back_to else 0
        action = f"rolled back to {self.back_to.name if self.back_to else 'the beginning'}"
        earlier = first_says(lambda: sum(one["to"] == to for one in rollbacks(self.run)))
        if earlier >= MOST:
            rows = f"the rows of steps {first:,} to {step:,}, which {self.run / SKIPPED} names"
            raise Mistake(
                f"step {step:,}: {told(verdict)}, and the run went back to step {to:,} {earlier} times before: "
                f"try a lower --learning_rate or --max_grad_norm, and look at {rows}"
            )
        say(f"step {step:,}: {told(verdict)}, {guard.skipped} in a row: {action}, without their rows")
        self.write("rollback", first, step, figures, action=action, to=to, left_out=self.left_out)
        asked = first_says(lambda: self.trainer.follow.stopper.asked > 0)
        if self.back_to is None or asked:  # the next start goes on from there
            remove_overtaken(self.run, self.trainer.course.without(self.left_out))
            self.close()
            self.trainer.follow.stopped(step, "" if asked else "rollback")
        control.should_training_stop, control.should_epoch_stop = False, True
        self._quiet(control)

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.back_to is not None:
            self._quiet(control)

    def _quiet(self, control: TrainerControl) -> None:
        """What is about to be given up is neither saved nor judged."""
        control.should_log = control.should_evaluate = control.should_save = False

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Trainer asks for the batches of an epoch behind this: they begin where the checkpoint ends."""
        if self.back_to is None:
            return
        with self.trainer.follow.aside():
            course = self.trainer.course.without(self.left_out)
            remove_overtaken(self.run, course)
            self.trainer.go_back(self.back_to, course)
        self.back_to = None

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.close()

    def write(self, kind: str, first: int, last: int, figures: dict[str, Any], **more: Any) -> None:
        """Into both logs; rank 0's alone."""
        course: Course = self.trainer.course
        begin, end = course.position(first - 1), course.position(last)
        rows = [int(row) for step in range(first - 1, last) for row in course.batch(step)]
        words = {"step": last, **figures, **({"to": more["to"]} if "to" in more else {})}
        self.trainer.follow.folder.metrics.write(kind, **words, positions=[begin, end])
        if rank() == 0:
            places = course.places(first - 1, last)
            steps = {"step": last, "first_step": first}
            self.log.write(kind, **steps, **figures, positions=[begin, end], places=places, rows=rows, **more)
            sync(self.log.path)
            # The other steps of a rollback were traced when they were skipped
            self._trace(last, [int(row) for row in course.batch(last - 1)])

    def _trace(self, step: int, rows: list[int]) -> None:
        """In the background: the documents' names lie in the corpus, of which a shard may take half a minute."""

        def look() -> None:
            try:
                self.log.write("documents", step=step, rows=documents(self.trainer.rows, rows))
            except (Mistake, OSError) as error:
                self.log.write("documents", step=step, unknown=str(error))

        self.tracing.append(threading.Thread(target=look, name="documents", daemon=True))
        self.tracing[-1].start()

    def close(self) -> None:
        for thread in self.tracing:
            thread.join()
        self.tracing.clear()


def documents(rows: Mixture, numbers: list[int]) -> list[dict[str, Any]]:
    """Where rows come from: their packed set, their number in it, and the ids of their documents."""
    found: list[dict[str, Any]] = []
    for packed in rows.sets:
        mine = [(number, *rows.locate(number)) for number in numbers]
        own = [(number, row) for number, where, row in mine if where is packed]
        names = packed.names(row for _, row in own)
        found += [
            {"row": number, "packed": packed.artifact.name, "row_there": row, "documents": names[row]}
            for number, row in own
        ]
    return found


def told(verdict: Verdict) -> str:
    words = WORDS[verdict.reason]
    if verdict.reason == "spike" and verdict.loss is not None:
        words += f" to {verdict.loss:.3f} from a mean of {verdict.mean:.3f} with a deviation of {verdict.sigma:.3f}"
    return words
