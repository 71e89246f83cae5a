"""The training loop of chat fine-tuning: transformers' Trainer over batches of similar length.

Not trl's SFTTrainer. Its one epoch over 4,705 examples of 14 tokens (6M parameters, bf16, one core) ran at 1,800 tokens
per core-second, at 2,200 with packing, at 2,800 grouped by length with eager attention; this one at 3,400, as it
computes logits only where an answer is, and no entropies. 148 steps took 16 s in bf16 over fp32 weights, 24 s in fp32,
22 s under ZeRO-2 in bf16.
"""

import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback, set_seed

from finetune.examples import ByLength, Row, check_template, collate
from narae.follow import Follow
from narae.log import Mistake, say
from narae.pulse import beat
from narae.saving import CheckpointTrainer


def load_tokenizer(folder: Path) -> Any:
    if not (folder / "tokenizer.json").is_file():
        raise Mistake(f"{folder} has no tokenizer.json: put the tokenizer that the model was trained with beside it")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:
        raise Mistake(f"the tokenizer in {folder} cannot be read: {str(error).splitlines()[0]}") from None
    check_template(tokenizer, str(folder))
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(folder: Path, seed: int) -> Any:
    """fp32 weights, whatever the file holds: bf16 autocast needs them, DeepSpeed casts by itself."""
    set_seed(seed)
    try:
        return AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32, local_files_only=True)
    except Exception as error:
        raise Mistake(f"the model in {folder} cannot be read: {str(error).splitlines()[0]}") from None


def count(parameters: Iterable[Any]) -> int:
    """Under ZeRO-3 a parameter knows its own size."""
    return sum(one.ds_numel if hasattr(one, "ds_numel") else one.numel() for one in parameters)


def with_adapters(model: Any, config: Any, args: Any) -> Any:
    from peft import LoraConfig, get_peft_model
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

    if is_deepspeed_zero3_enabled():
        raise Mistake(
            f"--method lora and ZeRO-3 in {args.deepspeed}: adapters merge whole weights only, take zero2.json"
        )
    adapters = LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, adapters)


class AnswerTrainer(CheckpointTrainer):
    def __init__(
        self,
        model: Any,
        args: Any,
        tokenizer: Any,
        rows: Sequence[Row],
        held_out: Sequence[Row],
        follow: Follow,
        questions: Sequence[str],
    ):
        args.ignore_data_skip = False  # the order is known by the seed; accelerate skips in it
        args.label_names = ["labels"]
        if not held_out:
            args.eval_strategy = "no"
        if args.ddp_find_unused_parameters is None:
            args.ddp_find_unused_parameters = False
        if args.device.type == "cpu" and sum(len(row["input_ids"]) for row in rows) < 256 * len(rows):
            # torch's fused attention is slow backwards on short rows. bf16, tokens per core-second, eager and fused:
            # 7,200 and 3,200 at 14 tokens a row, 7,600 and 5,000 at 40, 5,600 and 4,300 at 128, 4,000 and 4,200 at 512
            model.set_attn_implementation("eager")
        self.rows, self.held_out = rows, held_out
        self.follow, self.questions, self.evaluated = follow, questions, -1
        self.figures: dict[str, float] = {}
        super().__init__(
            model=model,
            args=args,
            train_dataset=rows,
            eval_dataset=held_out,
            processing_class=tokenizer,
            data_collator=lambda batch: collate(batch, tokenizer.pad_token_id),
            callbacks=[follow, Ends(self)],
        )

    def _get_train_sampler(self, train_dataset: Any = None) -> ByLength:
        lengths = [len(row["input_ids"]) for row in self.rows]
        return ByLength(lengths, self.args.train_batch_size * self.args.world_size, self.args.seed)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Loss per token of the held-out answers, and the share of answers that greedy decoding would give exactly."""
        began, model, args = time.monotonic(), self.model_wrapped, self.args
        rows = sorted(self.held_out, key=lambda row: len(row["input_ids"]))
        batches = [rows[n : n + args.eval_batch_size] for n in range(0, len(rows), args.eval_batch_size)]
        total = torch.zeros(3, dtype=torch.float64, device=args.device)
        model.eval()
        with torch.no_grad():
            for n in range(math.ceil(len(batches) / args.world_size)):  # as many on every rank: ZeRO-3 gathers in each
                beat(f"evaluation: batch {n + 1}")
                mine = n * args.world_size + args.process_index
                inputs = self._prepare_inputs(self.data_collator(batches[min(mine, len(batches) - 1)]))
                with self.compute_loss_context_manager():
                    output = model(**inputs, use_cache=False)
                if mine < len(batches):
                    total += torch.tensor(answered(output, inputs), dtype=torch.float64, device=args.device)
        model.train()
        if args.world_size > 1:
            torch.distributed.all_reduce(total)
        loss, exact = float(total[0] / total[1]), float(total[2] / len(rows))
        self.evaluated = self.state.global_step
        self.figures = {"loss": round(loss, 5), "exact": round(exact, 5)}
        metrics = {"eval_loss": loss, "eval_exact": exact}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(args, self.state, self.control, metrics)
        seconds = round(time.monotonic() - began, 2)
        self.follow.folder.metrics.write("eval", step=self.state.global_step, seconds=seconds, **self.figures)
        say(f"step {self.state.global_step:,}  held out: loss {loss:.3f}, {exact:.1%} of {len(rows):,} answers exact")
        self.follow.refresh_report()
        return metrics

    def sample(self, model: Any) -> None:
        """What the model answers to fixed questions, into metrics.jsonl. Under ZeRO-3 every rank takes part."""
        tokenizer: Any = self.processing_class
        model.eval()
        for number, question in enumerate(self.questions, start=1):
            beat(f"samples: question {number}")
            chat = [{"role": "user", "content": question}]
            ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
            ids = ids["input_ids"].to(self.args.device)
            with torch.no_grad(), self.compute_loss_context_manager():
                output = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=32)
            text = tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True).strip()
            self.follow.folder.metrics.write("sample", step=self.state.global_step, prompt=question, text=text)
        model.train()


class Ends(TrainerCallback):
    """Measures before the first step and after the last, when the engine stands."""

    def __init__(self, trainer: AnswerTrainer):
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if state.global_step == 0:
            self.trainer.sample(model)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= state.max_steps:  # Trainer would go one step further from such a checkpoint
            control.should_save = False

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if state.global_step >= state.max_steps:
            if self.trainer.held_out and self.trainer.evaluated != state.global_step:
                self.trainer.evaluate()
            self.trainer.sample(model)


def answered(output: Any, inputs: dict[str, torch.Tensor]) -> tuple[float, int, int]:
    """Sum of the loss, tokens, and rows whose every answer token is the most likely one."""
    wanted = inputs["shift_labels"]
    counted = wanted != -100
    right = (output.logits.argmax(dim=-1) == wanted) | ~counted
    targets = int(counted.sum())
    return float(output.loss) * targets, targets, int(right.all(dim=1).sum())
