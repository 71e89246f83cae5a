"""Let a model write: answers to prompts, or a whole file of questions at once.

    python infer/generate.py                                    # a prompt loop; in a pipe: one prompt per line
    python infer/generate.py --prompt "하늘은 왜 파랗습니까?" --do_sample true --temperature 0.8
    python infer/generate.py --questions sample                 # both question files of the sample, into an artifact
    python infer/generate.py --file exam.jsonl --name exam --model mine-chat

Standard output carries nothing but generated text. Every field of transformers' GenerationConfig is an option, too.
"""

import contextlib
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from narae import artifact
from narae.artifact import Artifact, open_artifact
from narae.config import option, parse_first, resolved, unknown
from narae.log import Mistake, Progress, say

if TYPE_CHECKING:
    from infer.engine import Engine

CONFIG = "configs/generate/sample.yaml"


@dataclass
class GenerateConfig:
    model: str = option("", "a run's name, or the path of a Hugging Face folder; none: sample-chat, else sample")
    prompt: str = option("", "answer this one and leave")
    file: list[str] = option([], "jsonl files of {id, question or prompt, answer}, answered into an artifact")
    questions: str = option("", "a sample artifact, whose question files are answered into an artifact")
    name: str = option("", "what the answers are called; none: as the model")
    chat: str = option("auto", "true: as a question, by the chat template; false: as the beginning of a text")
    penalize_prompt: bool = option(False, "repetition_penalty counts the prompt's words as well")
    seed: int | None = option(None, "of the random numbers, where do_sample is true")
    dtype: str = option("auto", "auto, float32, bfloat16, float16")
    batch_size: int = option(64, "questions at a time")
    overwrite: bool = option(False, "replace other answers of this name")


def main() -> None:
    config, options = parse_first(GenerateConfig, config=CONFIG, about=__doc__)
    check_options(options)
    folder, model = find_model(config.model)
    if config.file or config.questions:
        answer_files(config, options, folder, model)
        return

    from infer.engine import Engine

    engine = Engine(folder, options, config.chat, config.seed, config.dtype, config.penalize_prompt)
    if config.prompt:
        engine.answer(config.prompt, emit=write)
        write("\n")
    elif sys.stdin.isatty():
        prompt_loop(engine)
    else:
        for line in sys.stdin:
            # one answer per line, whatever is in it, so that the lines of both sides belong together
            text = engine.answer(line.strip()) if line.strip() else ""
            write(" ".join(text.split("\n")) + "\n")


def check_options(options: dict[str, Any]) -> None:
    if not options:
        return
    from transformers import GenerationConfig

    known = GenerationConfig().to_dict().keys() | GenerateConfig.__dataclass_fields__.keys() | {"config"}
    for key in options:
        if key not in known:
            raise Mistake(unknown("flag", f"--{key}", {f"--{name}" for name in known}))


def find_model(name: str) -> tuple[Path, Artifact | None]:
    """The model's folder; None for one that no command of ours has made."""
    if not name:
        runs = [run for run in ("sample-chat", "sample") if artifact.find("model", run)]
        if not runs:
            raise Mistake(
                f"there is neither sample-chat nor sample in {artifact.root() / 'runs'}: `make demo` trains both, "
                "--model opens another model"
            )
        name = runs[0]
    folder = Path(name).expanduser()
    if "/" not in name and not name.startswith("."):
        found = open_artifact("model", name)
        return found.path, found
    if (folder / "manifest.json").is_file():
        found = open_artifact("model", str(folder.absolute()))
        return found.path, found
    if not (folder / "config.json").is_file():
        raise Mistake(f"--model {name}: no config.json in {folder.absolute()}, so it is no Hugging Face model folder")
    return folder.absolute(), None


def write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def prompt_loop(engine: "Engine") -> None:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  arrow keys and history for input()
    kind = "a question" if engine.chat else "the beginning of a text"
    say(f"{engine.folder}: write {kind}; an empty line or Ctrl-D leaves")
    while True:
        if not sys.stdout.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        try:
            prompt = input("> " if sys.stdout.isatty() else "").strip()
        except (EOFError, KeyboardInterrupt):
            break
        if not prompt:
            break
        try:
            engine.answer(prompt, emit=write)
        except KeyboardInterrupt:
            say("stopped")
        except Mistake as mistake:
            say(mistake.message)
        write("\n")
    say("goodbye")


def answer_files(config: GenerateConfig, options: dict[str, Any], folder: Path, model: Artifact | None) -> None:
    parents = [model] if model else []
    files = [Path(name).expanduser() for name in config.file]
    inputs: dict[str, Any] = {} if model else {"model": artifact.hash_file(folder / "config.json")}
    for file in files:
        if not file.is_file():
            raise Mistake(f"--file {file}: there is no such file")
        inputs[file.name] = artifact.hash_file(file)
    if config.questions:
        sample = open_artifact("sample", config.questions)
        parents.append(sample)
        files += sorted(sample.path.glob("questions_*.jsonl"))
    name = config.name or (model.name if model else folder.name)
    identity = resolved(config, neutral={"model", "prompt", "file", "questions", "batch_size"}) | options
    draft = artifact.begin("answers", name, identity, parents, inputs, config.overwrite)
    if draft is None:
        return
    with draft:
        questions = [question for file in files for question in read_questions(file)]
        if not questions:
            raise Mistake(f"no question in {', '.join(map(str, files))}")

        from infer.engine import Engine

        # Greedily, unless told otherwise: an exam is not a matter of luck
        options = {"do_sample": False} | options
        engine = Engine(folder, options, config.chat, config.seed, config.dtype, config.penalize_prompt)
        began = time.monotonic()
        answer_all(engine, questions, config.batch_size)
        draft.counts["seconds"] = round(time.monotonic() - began, 1)
        sets: dict[str, dict[str, int]] = defaultdict(lambda: {"questions": 0, "exact": 0})
        with (draft.path / "answers.jsonl").open("w", encoding="utf-8") as out:
            for question in questions:
                sets[question["set"]]["questions"] += 1
                sets[question["set"]]["exact"] += bool(question["exact"])
                out.write(json.dumps(question, ensure_ascii=False) + "\n")
        draft.counts["sets"] = dict(sets)
    for label, n in sets.items():
        say(f"{label}: {n['exact']:,} of {n['questions']:,} answered exactly ({n['exact'] / n['questions']:.1%})")
    say(f"{len(questions):,} answers in {draft.counts['seconds']} s: {draft.target}")


def read_questions(file: Path) -> Iterator[dict[str, Any]]:
    label = file.stem.removeprefix("questions_")
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                question = row.get("question", row.get("prompt"))
            except (ValueError, AttributeError):
                question, row = None, {}
            if not isinstance(question, str) or not question.strip():
                raise Mistake(f"{file}, line {number}: no JSON object with a question (or prompt)")
            expected = row.get("answer")
            yield {
                "id": row.get("id", f"{label}-{number}"),
                "question": question.strip(),
                "expected": expected.strip() if isinstance(expected, str) else None,
                "set": label,
            }


def answer_all(engine: "Engine", questions: list[dict[str, Any]], batch_size: int) -> None:
    """Fill in `answer` and `exact`. Where all answers are known, nothing much longer than they is generated."""
    expected = [question["expected"] for question in questions]
    most = None
    if None not in expected:
        most = max(len(ids) for ids in engine.tokenizer(expected, add_special_tokens=False)["input_ids"]) + 8
    bar = Progress("answering", len(questions), "questions")
    prompts = [question["question"] for question in questions]
    for done, (place, text) in enumerate(engine.answers(prompts, batch_size, most), start=1):
        question = questions[place]
        question["answer"] = text.strip()
        question["exact"] = question["answer"] == question["expected"]
        bar.update(done)
    bar.close()


if __name__ == "__main__":
    main()
