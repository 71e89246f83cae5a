"""A finished model that answers: loading, prompts, streaming by whole syllables, and many prompts at once."""

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, set_seed
from transformers.generation.logits_process import LogitsProcessorList, RepetitionPenaltyLogitsProcessor
from transformers.utils import logging as hf_logging

from infer.syllables import Syllables
from narae.log import Mistake


class Engine:
    def __init__(
        self, folder: Path, options: dict[str, Any], chat: str, seed: int | None, dtype: str, penalize_prompt: bool
    ):
        hf_logging.set_verbosity_error()
        hf_logging.disable_progress_bar()
        logging.getLogger("transformers").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module=r"(torch|transformers)\b.*")
        self.folder, self.penalize_prompt = folder, penalize_prompt
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if not (folder / "config.json").is_file():
            raise Mistake(f"{folder} is no model folder: it holds no config.json")
        if not (folder / "tokenizer.json").is_file():
            raise Mistake(
                f"{folder} has no tokenizer.json: put the tokenizer that the model was trained with beside it"
            )
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
            model: Any = AutoModelForCausalLM.from_pretrained(
                str(folder), dtype=self._dtype(dtype), local_files_only=True
            )
        except Mistake:
            raise
        except Exception as error:
            raise Mistake(f"the model in {folder} cannot be read: {str(error).splitlines()[0]}") from None
        self.model = model.to(self.device).eval()
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.tokenizer.padding_side = "left"
        self.context = int(getattr(self.model.config, "max_position_embeddings", 0) or self.tokenizer.model_max_length)
        self.generation = self._generation(options)
        self.chat = self._chat(chat)
        if seed is not None:
            set_seed(seed)

    def _dtype(self, name: str) -> torch.dtype:
        """bf16 on a GPU. On a CPU fp32: there greedy text does not depend on what else is in the batch."""
        if name == "auto":
            on_gpu = self.device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
            return torch.bfloat16 if on_gpu else torch.float32
        known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
        if name not in known:
            raise Mistake(f"--dtype {name}: auto, {', '.join(known)} are known")
        return known[name]

    def _generation(self, options: dict[str, Any]) -> GenerationConfig:
        generation = GenerationConfig.from_dict(self.model.generation_config.to_dict())
        try:
            generation.update(**options)
            generation.validate()
        except (ValueError, TypeError) as error:
            raise Mistake(str(error).splitlines()[0]) from None
        # What nobody set, the pipeline would set: to sampling at a temperature of 0.7
        if generation.do_sample is None:
            generation.do_sample = False
        if generation.temperature is None:
            generation.temperature = 1.0
        if generation.max_new_tokens is None and generation.max_length is None:
            generation.max_new_tokens = 128
        if generation.pad_token_id is None:
            generation.pad_token_id = self.tokenizer.pad_token_id
        if generation.eos_token_id is None:
            generation.eos_token_id = self.tokenizer.eos_token_id
        return generation

    def _chat(self, wanted: str) -> bool:
        """auto: a model is fine-tuned for chat where more than the document's end token ends its text."""
        if wanted not in ("auto", "true", "false"):
            raise Mistake(f"--chat {wanted}: auto, true and false are known")
        if wanted == "true" and not self.tokenizer.chat_template:
            raise Mistake(f"--chat true: the tokenizer in {self.folder} has no chat template")
        if wanted != "auto":
            return wanted == "true"
        ends = self.generation.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        return bool(self.tokenizer.chat_template) and any(end != self.tokenizer.eos_token_id for end in ends)

    def text(self, prompt: str) -> str:
        """What the model reads. A document begins after the end of another one, as in training."""
        if self.chat:
            turn = [{"role": "user", "content": prompt}]
            return str(self.tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False))
        return f"{self.tokenizer.bos_token or ''}{prompt}"

    def ids(self, prompt: str) -> list[int]:
        found: list[int] = self.tokenizer(self.text(prompt), add_special_tokens=False)["input_ids"]
        room = self.context - len(found)
        if room < 1:
            raise Mistake(
                f"a prompt of {len(found):,} tokens leaves no room in the model's {self.context:,}: shorten it"
            )
        return found

    def _arguments(self, prompt_tokens: int, most: int | None = None) -> dict[str, Any]:
        """The generation config for a prompt of this length, and the repetition penalty on what is generated alone.

        The library's penalty counts the prompt as well, and so forbids an answer to name what was asked about.
        """
        generation = GenerationConfig.from_dict(self.generation.to_dict())
        room = self.context - prompt_tokens
        if generation.max_new_tokens is not None:
            generation.max_new_tokens = min(generation.max_new_tokens, most or room, room)
        arguments: dict[str, Any] = {"generation_config": generation}
        penalty = generation.repetition_penalty
        if penalty not in (None, 1.0) and not self.penalize_prompt:
            generation.repetition_penalty = 1.0
            processor = RepetitionPenaltyLogitsProcessor(float(penalty), prompt_ignore_length=prompt_tokens)
            arguments["logits_processor"] = LogitsProcessorList([processor])
        return arguments

    def answer(self, prompt: str, emit: Callable[[str], None] | None = None) -> str:
        """The text for one prompt, by the text-generation pipeline; `emit` receives it as it grows."""
        from transformers import pipeline

        if not hasattr(self, "_pipeline"):
            self._pipeline = pipeline("text-generation", model=self.model, tokenizer=self.tokenizer)
        streamer = Syllables(self.tokenizer, emit or (lambda piece: None), strip=self.chat)
        beams = (self.generation.num_beams or 1) != 1  # several texts at once: nothing is final before the end
        arguments = self._arguments(len(self.ids(prompt))) | ({} if beams else {"streamer": streamer})
        with one_line():
            found = self._pipeline(self.text(prompt), add_special_tokens=False, return_full_text=False, **arguments)
        if beams:
            streamer.out(found[0]["generated_text"])
        return streamer.text

    def answers(self, prompts: Sequence[str], batch_size: int, most: int | None = None) -> Iterator[tuple[int, str]]:
        """The place of every prompt, with its text: in batches of similar length, longest first."""
        encoded = [self.ids(prompt) for prompt in prompts]
        order = sorted(range(len(prompts)), key=lambda place: -len(encoded[place]))
        for begin in range(0, len(order), batch_size):
            places = order[begin : begin + batch_size]
            inputs = self.tokenizer.pad({"input_ids": [encoded[place] for place in places]}, return_tensors="pt")
            length = inputs["input_ids"].shape[1]
            with torch.inference_mode(), one_line():
                output = self.model.generate(**inputs.to(self.device), **self._arguments(length, most))
            for place, row in zip(places, output[:, length:], strict=True):
                text = self.tokenizer.decode(row, skip_special_tokens=True)
                yield place, text.lstrip() if self.chat else text


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """What the library thinks of the options, it says on the way."""
    try:
        yield
    except (ValueError, TypeError, RuntimeError, NotImplementedError) as error:
        raise Mistake(f"nothing can be generated with these options: {str(error).splitlines()[0]}") from None
