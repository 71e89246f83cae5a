"""Train a model from random weights on packed rows.

    deepspeed pretrain/run.py --deepspeed configs/ds/zero2.json                   # the sample's config
    deepspeed pretrain/run.py --deepspeed configs/ds/zero2.json --config configs/pretrain/books-1.3b.yaml
    python pretrain/run.py --packed books --name first --size 125m --train_tokens 10B
    python pretrain/run.py --packed books:0.7,news:0.3 --name mixed    # 7 rows of books for 3 of news

Run it again and an unfinished run goes on from its newest whole checkpoint; a finished one says where its model lies,
or goes on with a larger --train_tokens. Every field of transformers' TrainingArguments is an option, too. What --size
recommends (batch, learning rate, warm-up) holds where neither the config nor the command line says otherwise.
"""

import copy
import inspect
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from narae import zero
from narae.artifact import Artifact, begin, current, root
from narae.checkpoint import checkpoints, damage, last_good, step_of
from narae.config import parse, parse_first
from narae.log import Mistake, rank, say
from narae.mixture import Mixture
from narae.model import read_json
from narae.packed import PackedRows, parent
from narae.pulse import IMPORTING, TIMEOUT, beat, long, seconds_for, together
from narae.ranks import first_says, part
from narae.room import unwritten
from pretrain.segments import Course, read_course
from pretrain.settings import RECIPE, Config, advice, check, course_of, grows, identity_of, profiled, sets_of

CONFIG = "configs/pretrain/sample.yaml"
FIGURES = "loss", "loss_inside", "bits_per_byte", "accuracy"


def main() -> None:
    if {"-h", "--help"} & set(sys.argv):
        arguments()
    config, asked = parse_first(Config, config=CONFIG)
    check(config, asked)
    # What was asked for decides, before seconds go into importing the library that knows what was not
    sets = sets_of(config)
    course = course_of(config, asked, sets)
    identity = identity_of(config, asked, course, sets)
    grown = grows(config, identity)
    if not grown and current("model", config.name, identity, sets, overwrite=config.overwrite):
        return
    with together(root() / "runs" / config.name, asked.get("hang_timeout", TIMEOUT)):
        work(asked, sets, course, identity, grown)


def work(asked: dict[str, Any], sets: list[Artifact], course: Course, identity: dict[str, Any], grown: bool) -> None:
    """All ranks: from the rows to the published model."""
    with long("importing the libraries", IMPORTING):
        import narae.training  # noqa: F401
    beat("reading the options")
    config, args = arguments(asked)
    beat("opening the rows")
    rows = Mixture([PackedRows(packed, "train") for packed in sets], mixing=course.segments[0].mixing)
    held_out = Mixture([PackedRows(packed, "val") for packed in sets])
    share_batch(args, asked, course)
    best = args.metric_for_best_model.removeprefix("eval_")
    known = [*FIGURES, *(f"{name}_bits_per_byte" for name in held_out.source_names)]
    if best not in known and not config.metric:  # whose figures are known when it has judged
        raise Mistake(f"--metric_for_best_model {best}: the evaluation has {', '.join(known)}")
    if config.optimizer == "muon":
        zero.for_muon(args)
    metrics = train(config, args, course, rows, held_out, identity, grown)
    with long("publishing the model", 2 * seconds_for(Path(args.output_dir) / ".final")):
        if rank() == 0:
            publish(config, args, course, sets, identity, metrics)
        part()


def arguments(asked: dict[str, Any] | None = None) -> tuple[Config, Any]:
    if "RANK" not in os.environ and "SLURM_PROCID" in os.environ:
        # srun is no launcher: it says who we are in words of its own. The batch script exports MASTER_ADDR.
        for name, slurm in (("RANK", "SLURM_PROCID"), ("LOCAL_RANK", "SLURM_LOCALID"), ("WORLD_SIZE", "SLURM_NTASKS")):
            os.environ[name] = os.environ[slurm]
    from narae.training import TrainingOptions, quiet

    quiet()
    config, args = parse(Config, TrainingOptions, config=CONFIG, about=__doc__)
    args.place(config.name)
    for name in RECIPE:
        if name not in (asked or {}):
            setattr(args, name, getattr(advice(config), name))
    args.metric_for_best_model = args.metric_for_best_model or "bits_per_byte"
    if args.greater_is_better is None:
        args.greater_is_better = "accuracy" in args.metric_for_best_model
    return config, args


def share_batch(args: Any, asked: dict[str, Any], course: Course) -> None:
    """Micro-batches follow from the ranks that there are, step by step; Trainer itself sees one batch in a step."""
    from pretrain.batches import micro_batches

    ranks, most = args.world_size, args.per_device_train_batch_size
    for rows in dict.fromkeys(one.batch_rows for one in course.segments):
        if rows < ranks:
            raise Mistake(f"--batch_rows {rows} leaves some of {ranks} ranks without any: --batch_rows {ranks}")
        wanted = asked.get("gradient_accumulation_steps")
        if wanted and rows != ranks * most * wanted:
            raise Mistake(
                f"--batch_rows {rows} is not {ranks} ranks × --per_device_train_batch_size {most} × "
                f"--gradient_accumulation_steps {wanted} = {ranks * most * wanted}: leave the last one out, it follows"
            )
    shares = [-(-one.batch_rows // ranks) for one in course.segments]
    args.per_device_train_batch_size = -(-shares[0] // micro_batches(shares[0], most))
    args.max_steps = course.steps
    if args.deepspeed:
        # DeepSpeed asks whether gradients are accumulated at all; by how many follows from step to step
        args.gradient_accumulation_steps = max(micro_batches(share, most) for share in shares)
        zero.check(args.deepspeed, args)
        micro, parts = args.per_device_train_batch_size, args.gradient_accumulation_steps
        args.hf_deepspeed_config.config |= {
            "train_micro_batch_size_per_gpu": micro,
            "gradient_accumulation_steps": parts,
            "train_batch_size": micro * parts * ranks,
        }
    args.gradient_accumulation_steps = 1


def train(
    config: Config, args: Any, course: Course, rows: Mixture, held_out: Mixture, identity: dict[str, Any], grown: bool
) -> dict[str, Any]:
    """All ranks. Leaves the weights in runs/<name>/.final; a signal ends it with a checkpoint instead."""
    beat("importing the trainer")
    import torch
    from transformers import AutoTokenizer

    from narae.devices import device_name, matmul_rate
    from narae.follow import Follow, RunFolder
    from narae.footprint import flops_per_token
    from narae.ledger import read as read_ledger
    from narae.model import from_values, generation_defaults, new_config, new_model
    from narae.restarts import check_restarts
    from pretrain.attention import blocks_for
    from pretrain.batches import Batches, Boundaries
    from pretrain.evaluation import BrokenOff, Judge
    from pretrain.guard import Guard
    from pretrain.loss import use_loss_head
    from pretrain.profiler import Profiler
    from pretrain.rollback import gaps_of, remove_overtaken
    from pretrain.rotary import use_turning_attention
    from pretrain.trainer import Pretrainer

    packed = rows.sets[0].artifact
    length, entries = rows.sequence_length, packed.counts["entries"]
    tokenizer = AutoTokenizer.from_pretrained(parent(packed, "tokenizer").path)
    if len(tokenizer) != entries:
        made = parent(packed, "tokenizer").path
        raise Mistake(
            f"packed '{packed.name}' has ids of {entries:,} entries, its tokenizer {made} has {len(tokenizer):,}"
        )
    shape = (
        from_values(read_json(Path(config.model_config)), entries, length)
        if config.model_config
        else new_config(config.size, entries, length)
    )
    shape.bos_token_id = shape.eos_token_id = tokenizer.eos_token_id
    shape.pad_token_id = tokenizer.pad_token_id
    fits(config, shape)
    # An unfinished run does not go on with other rows
    lineage = {"packed": packed.fingerprint}
    lineage |= {f"packed {other.artifact.name}": other.artifact.fingerprint for other in rows.sets[1:]}
    folder = RunFolder(config.name, identity | {"parents": lineage}, config.overwrite, growing="train_tokens")
    beat("building the model")
    model = new_model(shape, args.seed, config.scaled_init)
    if attention := config.attn_implementation or blocks_for(model, args.device):
        model.set_attn_implementation(attention)
    use_loss_head(model)
    use_turning_attention(model)
    args.eval_strategy = args.eval_strategy if len(held_out) else "no"
    decay_step = course.steps
    if args.lr_scheduler_type == "warmup_stable_decay":
        decay_step = course.steps - round(config.decay * course.steps)
    course = course.without(gaps_of(folder.path))
    remove_overtaken(folder.path, course)
    with long("looking for the newest whole checkpoint", seconds_for(*checkpoints(folder.path))):
        resume = resume_from(folder, course, grown)
    step = step_of(resume) if resume else 0
    first_says(lambda: check_restarts(folder.path, step, args.max_restarts))
    precision = "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32"
    number = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]
    rate = matmul_rate(args.device, number)
    about = {"device": device_name(args.device), "precision": precision, "matmul_per_s": round(rate)}
    boundaries = Boundaries(config.document_attention, config.document_loss == "inside")
    trainer = Pretrainer(
        rows,
        course,
        Batches(rows, course, args.per_device_train_batch_size, boundaries, step, args.process_index, args.world_size),
        judge=Judge(held_out, tokenizer, args, boundaries, config.eval_rows, config.metric, config.prompts),
        follow=Follow(folder, config.name, about=about),
        guard=Guard(config.max_skips, config.spike_sigmas, config.spike_window),
        rule={
            "kind": config.optimizer,
            "muon_learning_rate": config.muon_learning_rate,
            "muon_momentum": config.muon_momentum,
        },
        decay_step=decay_step,
        flops_per_token=flops_per_token(shape, length),
        matmul_per_s=rate,
        model=model,
        args=args,
        processing_class=tokenizer,
    )
    trainer.mark = folder.mark
    if resume:
        trainer.tokens = read_course(resume)["tokens"]
        trainer.owes = read_course(resume).get("owes", False)
        trainer.guard.load(read_course(resume)["guard"])
    if config.profile_steps:
        trainer.add_callback(Profiler(*profiled(config.profile_steps), trainer.follow))
    say(
        f"{'goes on from ' + resume.name if resume else 'starts'}: {size_of(model) / 1e6:,.1f}M parameters, "
        f"{course.steps:,} steps, {course.rows * length:,} tokens out of {len(rows):,} rows × {length}; "
        f"{args.world_size} ranks × {args.per_device_train_batch_size} rows at a time, {precision}, {config.optimizer}"
    )
    describe(course, rows)
    began = time.monotonic()
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    if trainer.state.global_step < args.max_steps or trainer.owes:
        trainer.follow.stopped(trainer.state.global_step)
    history = [record for record in trainer.state.log_history if "eval_loss" in record]
    if len(held_out) and not (history and history[-1]["step"] == args.max_steps):
        try:
            history.append(trainer.evaluate())
        except BrokenOff:
            trainer.follow.stopped(args.max_steps)
    beat("the last pages and weights are written")
    trainer.follow.close()
    folder.metrics.write("end", step=args.max_steps, seconds=round(time.monotonic() - began, 1))
    model.generation_config = generation_defaults(tokenizer)
    model.config.use_cache = True  # Trainer turns it off
    wrong = ""
    try:
        trainer.save_model(str(folder.path / ".final"))
    except Exception as error:
        wrong = unwritten(error)
        if not wrong:
            raise
    if wrong := first_says(lambda: wrong):
        raise Mistake(
            f"the model is trained, and final/ could not be written ({wrong}): make room, and the same command goes on "
            "from the newest checkpoint"
        )
    if rank() == 0 and (ledger := read_ledger(folder.path)) is not None:
        say(ledger.lines()[0])
    last = history[-1] if history else {}
    figures = {key: last[f"eval_{key}"] for key in FIGURES if f"eval_{key}" in last}
    return {"parameters": size_of(model), "trained_tokens": trainer.tokens, **figures}


def fits(config: Config, shape: Any) -> None:
    """Asked of a model without weights: a wrong word must not cost the folder of a run that --overwrite names."""
    import torch

    from narae.model import kind_of

    kind = kind_of(shape)
    if config.document_attention and "position_ids" not in inspect.signature(kind.forward).parameters:
        raise Mistake(
            f"a {shape.model_type} model takes no positions to keep documents apart: --document_attention false"
        )
    if config.attn_implementation:
        with torch.device("meta"):
            empty = kind(copy.deepcopy(shape))
        try:
            empty.set_attn_implementation(config.attn_implementation)
        except (ValueError, ImportError) as error:
            raise Mistake(f"--attn_implementation {config.attn_implementation}: {str(error).splitlines()[0]}") from None


def resume_from(folder: Any, course: Course, grown: bool) -> Path | None:
    """The checkpoint to go on from, if there is one. A run that became longer goes back to before its rate fell."""
    from pretrain.rollback import overtaken

    run = folder.path
    found = last_good(run, folder.mark)
    if found is None:
        if grown:
            raise Mistake(f"{run} has no checkpoint to go on from: --overwrite starts it anew, --name starts another")
        return None
    was = read_course(found)
    step = step_of(found)
    before = run / f"checkpoint-{was['decay_step']}"
    shorter = was["steps"] < course.steps and was["decay_step"] < step
    if shorter and first_says(lambda: before.is_dir() and not damage(before, folder.mark)):
        say(f"the run became longer: it goes on from {before.name}, where its learning rate had not begun to fall")
        found, step, was = before, was["decay_step"], read_course(before)
    if overtaken(course.history(step), was["history"]):
        raise Mistake(
            f"{found.name} was reached without rows that {run / 'skipped.jsonl'} should name, and does not: put that "
            "file back, or start the run anew with --overwrite"
        )
    if was["history"] != course.history(step):
        raise Mistake(
            f"by {found.name} the run had read other rows than this course would have: {was['history']} instead of "
            f"{course.history(step)}; give --batch_ramp and --phases in tokens, where a share of the run has moved"
        )
    return found


def describe(course: Course, rows: Mixture) -> None:
    """What the run will read, where that is not one set in steps of one size."""
    if len(course.segments) > 1:
        for one, after in zip(course.segments, [*course.segments[1:], None], strict=True):
            mixed = [
                f"{each.artifact.name}:{weight}"
                for each, weight in zip(rows.sets, one.mixing.weights, strict=True)
                if weight
            ]
            last = after.step if after else course.steps
            say(f"steps {one.step:,} to {last:,}: {one.batch_rows:,} rows each of {', '.join(mixed)}")
    if len(rows.sets) > 1:
        read = course.read(course.steps)
        for each, count in zip(rows.sets, read, strict=True):
            say(f"{each.artifact.name}: {count / course.rows:.1%} of the rows, each {count / len(each):.2f} times")


def publish(
    config: Config,
    args: Any,
    course: Course,
    parents: list[Artifact],
    identity: dict[str, Any],
    metrics: dict[str, Any],
) -> None:
    """final/: a plain Hugging Face folder with its tokenizer and its manifest."""
    draft = begin("model", config.name, identity, parents, overwrite=True)
    assert draft is not None
    staged = Path(args.output_dir) / ".final"
    with draft:
        for file in staged.iterdir():
            if file.name != "training_args.bin":
                file.rename(draft.path / file.name)
        tokens = course.rows * parents[0].counts["sequence_length"]
        draft.counts |= {**metrics, "steps": args.max_steps, "tokens": tokens}
    shutil.rmtree(staged)
    judged = f": {metrics['bits_per_byte']:.3f} bits per byte held out" if "bits_per_byte" in metrics else ""
    say(f"finished{judged}: {draft.target}")


def size_of(model: Any) -> int:
    return sum(getattr(weights, "ds_numel", weights.numel()) for weights in model.parameters())


if __name__ == "__main__":
    main()
