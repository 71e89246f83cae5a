"""Train a model from random weights on packed rows.

    deepspeed pretrain/run.py --deepspeed configs/ds/zero2.json                   # the sample's config
    deepspeed pretrain/run.py --deepspeed configs/ds/zero2.json --config configs/pretrain/books-1.3b.yaml
    python pretrain/run.py --packed books --name first --size 125m --max_steps 1000
    python pretrain/run.py --packed books:0.7,news:0.3 --name mixed    # 7 rows of books for 3 of news

Run it again and an unfinished run goes on from its newest whole checkpoint; a finished one says where its model lies.
Every field of transformers' TrainingArguments is an option, too.
"""

import inspect
import math
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from narae.artifact import Artifact, begin, current
from narae.config import deciding, option, parse, parse_first
from narae.log import Mistake, rank, say
from narae.mixture import Mixture, open_sets
from narae.model import read_json
from narae.order import whole_weights
from narae.packed import PackedRows, parent

CONFIG = "configs/pretrain/sample.yaml"


@dataclass
class Config:
    name: str = option("sample", "the run; its folder is artifacts/runs/<name>")
    overwrite: bool = option(False, "replace a run of another config under this name")
    packed: str = option("sample", "the packed rows to read; several as books:0.7,news:0.3, mixed by these weights")
    size: str = option("tiny", "the model's shape, from the table in narae/model.py")
    model_config: str | None = option(None, "config.json of another causal LM to start from random weights")
    batch_rows: int = option(64, "rows in one step, over all ranks and accumulation")
    document_attention: bool = option(True, "no token sees another document, and positions begin again in each")
    document_loss: str = option("all", "inside leaves out a document's first token after the end of another; or all")


def main() -> None:
    if {"-h", "--help"} & set(sys.argv):
        arguments()
    config, asked = parse_first(Config, config=CONFIG)
    if config.document_loss not in ("all", "inside"):
        raise Mistake(f"--document_loss {config.document_loss}: it is all or inside")
    sets = open_sets(config.packed)
    parents = [packed for packed, _ in sets]
    # What was asked for decides, before seconds go into importing the library that knows what was not
    identity = {
        "model": config.size,
        "batch_rows": config.batch_rows,
        "document_attention": config.document_attention,
        "document_loss": config.document_loss,
    }
    if config.model_config:
        identity["model"] = read_json(Path(config.model_config))
    if len(sets) > 1:
        weights = whole_weights([weight for _, weight in sets])
        identity["mixture"] = ", ".join(f"{one.name}:{weight}" for one, weight in zip(parents, weights, strict=True))
    identity |= deciding(asked, "per_device_train", "gradient_accumulation", "max_eval")
    if current("model", config.name, identity, parents, overwrite=config.overwrite):
        return
    config, args = arguments()
    rows = Mixture([PackedRows(packed, "train") for packed in parents], [weight for _, weight in sets], args.seed)
    held_out = Mixture([PackedRows(packed, "val") for packed in parents])
    share_batch(config, args, rows)
    metrics = train(config, args, rows, held_out, identity)
    if rank() == 0:
        publish(config, args, parents, identity, metrics)


def arguments() -> tuple[Config, Any]:
    if "RANK" not in os.environ and "SLURM_PROCID" in os.environ:
        # srun is no launcher: it says who we are in words of its own. The batch script exports MASTER_ADDR.
        for name, slurm in (("RANK", "SLURM_PROCID"), ("LOCAL_RANK", "SLURM_LOCALID"), ("WORLD_SIZE", "SLURM_NTASKS")):
            os.environ[name] = os.environ[slurm]
    from narae.training import TrainingOptions, quiet

    quiet()
    config, args = parse(Config, TrainingOptions, config=CONFIG, about=__doc__)
    args.place(config.name)
    return config, args


def share_batch(config: Config, args: Any, rows: Mixture) -> None:
    """Micro-batch and accumulation follow from the ranks that there are, the number of steps from the epochs."""
    ranks = args.world_size
    if config.batch_rows % ranks:
        raise Mistake(f"--batch_rows {config.batch_rows} cannot be shared evenly by {ranks} ranks")
    share = config.batch_rows // ranks
    fitting = [micro for micro in range(1, args.per_device_train_batch_size + 1) if share % micro == 0]
    args.per_device_train_batch_size = fitting[-1]
    args.gradient_accumulation_steps = share // fitting[-1]
    if args.max_steps <= 0:
        args.max_steps = max(1, math.ceil(args.num_train_epochs * len(rows) / config.batch_rows))


def train(config: Config, args: Any, rows: Mixture, held_out: Mixture, identity: dict[str, Any]) -> dict[str, float]:
    """All ranks. Leaves the weights in runs/<name>/.final; a signal ends it with a checkpoint instead."""
    from transformers import AutoTokenizer

    from narae.checkpoint import last_good
    from narae.model import from_values, new_config, new_model
    from narae.training import STOPPED, Follow, RunFolder
    from pretrain.loss import use_loss_head
    from pretrain.trainer import Boundaries, Pretrainer

    packed = rows.sets[0].artifact
    length, entries = rows.sequence_length, packed.counts["entries"]
    tokenizer = AutoTokenizer.from_pretrained(parent(packed, "tokenizer").path)
    shape = (
        from_values(read_json(Path(config.model_config)), entries, length)
        if config.model_config
        else new_config(config.size, entries, length)
    )
    shape.bos_token_id = shape.eos_token_id = tokenizer.eos_token_id
    shape.pad_token_id = tokenizer.pad_token_id
    # An unfinished run does not go on with other rows
    lineage = {"packed": packed.fingerprint}
    lineage |= {f"packed {other.artifact.name}": other.artifact.fingerprint for other in rows.sets[1:]}
    folder = RunFolder(config.name, identity | {"parents": lineage}, config.overwrite)
    model = new_model(shape, args.seed)
    if config.document_attention and "position_ids" not in inspect.signature(type(model).forward).parameters:
        raise Mistake(
            f"a {shape.model_type} model takes no positions to keep documents apart: --document_attention false"
        )
    use_loss_head(model)
    args.eval_strategy = args.eval_strategy if len(held_out) else "no"
    # Padding is not predicted, nor is the first token of a row
    per_row = ((one.counts["tokens"] - len(one)) / len(one) for one in rows.sets)
    targets = sum(share * count for share, count in zip(rows.shares, per_row, strict=True))
    resume = last_good(folder.path)
    trainer = Pretrainer(
        rows,
        held_out,
        config.batch_rows,
        first_step=int(resume.name.rsplit("-", 1)[1]) if resume else 0,
        boundaries=Boundaries(config.document_attention, config.document_loss == "inside"),
        follow=Follow(folder, config.name, tokens_per_step=config.batch_rows * targets),
        model=model,
        args=args,
        processing_class=tokenizer,
    )
    say(
        f"{'goes on from ' + resume.name if resume else 'starts'}: {size_of(model) / 1e6:,.1f}M parameters, "
        f"{args.max_steps:,} steps of {config.batch_rows} rows × {length} tokens out of {len(rows):,} rows; "
        f"{args.world_size} ranks × {args.per_device_train_batch_size} rows × {args.gradient_accumulation_steps}, "
        f"{'bf16' if args.bf16 else 'fp16' if args.fp16 else 'fp32'}"
    )
    if len(rows.sets) > 1:
        read = rows.mixing.progress(args.max_steps * config.batch_rows)
        for one, share, (epoch, place) in zip(rows.sets, rows.shares, read, strict=True):
            say(f"{one.artifact.name}: {share:.1%} of the rows, each {epoch + place / len(one):.2f} times")
    began = time.monotonic()
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    if trainer.state.global_step < args.max_steps:
        trainer.follow.close()
        say(f"stopped by a signal after step {trainer.state.global_step:,}; the same command goes on from there")
        sys.exit(STOPPED)
    history = [record for record in trainer.state.log_history if "eval_loss" in record]
    if len(held_out) and not (history and history[-1]["step"] == args.max_steps):
        history.append(trainer.evaluate())
    trainer.follow.close()
    folder.metrics.write("end", step=args.max_steps, seconds=round(time.monotonic() - began, 1))
    model.generation_config = generation_defaults(tokenizer)
    trainer.save_model(str(folder.path / ".final"))
    last = history[-1] if history else {}
    figures = {key: last[f"eval_{key}"] for key in ("loss", "loss_inside", "bits_per_byte") if f"eval_{key}" in last}
    return {"parameters": size_of(model), **figures}


def publish(
    config: Config, args: Any, parents: list[Artifact], identity: dict[str, Any], metrics: dict[str, float]
) -> None:
    """final/: a plain Hugging Face folder with its tokenizer and its manifest."""
    draft = begin("model", config.name, identity, parents, overwrite=True)
    assert draft is not None
    staged = Path(args.output_dir) / ".final"
    with draft:
        for file in staged.iterdir():
            if file.name != "training_args.bin":
                file.rename(draft.path / file.name)
        tokens = args.max_steps * config.batch_rows * parents[0].counts["sequence_length"]
        draft.counts |= {**metrics, "steps": args.max_steps, "tokens": tokens}
    shutil.rmtree(staged)
    judged = f": {metrics['bits_per_byte']:.3f} bits per byte held out" if "bits_per_byte" in metrics else ""
    say(f"finished{judged}: {draft.target}")


def size_of(model: Any) -> int:
    return sum(getattr(weights, "ds_numel", weights.numel()) for weights in model.parameters())


def generation_defaults(tokenizer: Any) -> Any:
    from transformers import GenerationConfig

    return GenerationConfig(
        max_new_tokens=128,
        do_sample=True,
        temperature=0.8,
        top_p=0.95,
        repetition_penalty=1.2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


if __name__ == "__main__":
    main()
