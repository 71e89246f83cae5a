"""The report's sections, from top to bottom. Each takes the story and returns HTML, also where its part is missing."""

from typing import Any

from infer import samples
from infer.charts import Series, bar, decimal, facts, line_chart, missing, percent, short, size, took, whole
from infer.curves import Run
from infer.pretraining import pretraining, state
from infer.story import Story, is_current, mapping, of
from narae.artifact import KINDS
from narae.log import number
from narae.markup import NOTHING, table, text


def headline(story: Story) -> list[tuple[str, str, str]]:
    """Label, value, note."""
    found = []
    sets = mapping(story.counts("answers").get("sets"))
    for key in dict.fromkeys([*samples.SETS, *sets]):
        asked, right = (number(mapping(sets.get(key)).get(word)) for word in ("questions", "exact"))
        share = right / asked if asked and right is not None else None
        note = f"{whole(right)} of {whole(asked)} exact" if share is not None else "not asked yet"
        found.append((samples.SETS.get(key, text(key)), percent(share), note))
    bits = story.pretrained.bits_per_byte if story.pretrained else None
    seen = sum(run.tokens for run in story.runs)
    found.append(("Bits per byte", decimal(bits, 3), "on held-out text"))
    found.append(
        ("Tokens trained", short(seen) if seen else NOTHING, "pretraining and chat" if story.base else "in training")
    )
    # The chain's measurements are of the models before this one, while this one is still training.
    stages = story.stages if story.run is None or story.run.finished else []
    measured = of(story.demo, "seconds") if stages else 0.0
    seconds = measured or sum(run.seconds for run in story.runs)
    found.append(("Time", took(seconds) if seconds else NOTHING, "every stage" if measured else "training alone"))
    memory = max([0.0, *(run.memory_mb for run in story.runs), *(_peak(stage) for stage in stages)])
    found.append(("Peak memory", size(memory * 1e6) if memory else NOTHING, "the largest stage, all its processes"))
    return found


def body(story: Story, written: str) -> str:
    parts = [
        ("corpus", "Corpus", corpus(story)),
        ("tokenizer", "Tokenizer", tokenizer(story)),
        ("pretraining", "Pretraining", pretraining(story)),
        ("tuning", "Fine-tuning", tuning(story.tuned, story)),
        ("samples", "Samples", samples.side_by_side(story)),
        ("answers", "Answers", samples.answers(story.artifacts.get("answers"))),
        ("stages", "Stages", measured(story)),
        ("artifacts", "Artifacts", artifacts(story)),
    ]
    links = "".join(f'<a href="#{key}">{title}</a>' for key, title, _ in parts)
    laid = "".join(
        f'<section id="{key}" aria-labelledby="{key}-title"><h2 id="{key}-title">{title}</h2>\n{inner}</section>\n'
        for key, title, inner in parts
    )
    name = f" <small>{text(story.run.name)}</small>" if story.run else ""
    return (
        f'<header><h1>Narae <span lang="ko">나래</span>{name}</h1>\n{_state(story.run)}{_numbers(story)}'
        f'<nav aria-label="Sections">{links}</nav></header>\n<main>\n{laid}</main>\n'
        f"<footer>Written {written} by <code>python infer/report.py</code>. One file, nothing is loaded.</footer>"
    )


def _state(run: Run | None) -> str:
    if run is None:
        return missing("No run yet.", "make demo", "runs every stage")
    if run.finished:
        return ""
    if not run.total_steps:
        return '<p class="state">The run has started; no step is logged yet. This page reloads itself.</p>'
    share = run.step / run.total_steps
    left = f", about {took(run.seconds * (1 / share - 1))} left" if 0 < share < 1 and run.seconds else ""
    done = f"step {whole(run.step)} of {whole(run.total_steps)} ({percent(share, 0)})"
    return f'<div class="state">{state(run)}: {done}{left}. This page reloads itself.{bar(0, share, "thin")}</div>\n'


def _numbers(story: Story) -> str:
    cells = ""
    for place, (label, value, note) in enumerate(headline(story)):
        main = ' class="main"' if place < 3 else ""
        cells += f"<div{main}><dt>{label}</dt><dd><b>{value}</b><small>{note}</small></dd></div>"
    return f'<dl class="numbers">{cells}</dl>\n'


def corpus(story: Story) -> str:
    counts = story.counts("corpus")
    if not counts:
        return missing("No corpus yet.", KINDS["corpus"][1])
    read, train, val = (_amount(counts.get(key)) for key in ("read", "train", "val"))
    if not read[0]:  # made by hand: what was read is not known
        return _flow(story) + _packed(story)
    lost = [(f"rejected: {text(reason, 60)}", *_amount(n)) for reason, n in mapping(counts.get("rejected")).items()]
    lost.sort(key=lambda one: -one[1])
    twice = mapping(counts.get("duplicates"))
    kinds = {"": twice} if "documents" in twice or not twice else {f"{text(key, 40)} ": n for key, n in twice.items()}
    lost += [(f"{kind}duplicates", *_amount(n)) for kind, n in kinds.items() if twice]
    total = max(read[0], 1.0)
    unknown = read[0] - sum(documents for _, documents, _ in lost) - train[0] - val[0]
    if unknown:
        lost.append(("not accounted for", unknown, 0.0))

    rows = [["read", whole(read[0]), percent(1.0), size(read[1]), bar(0, read[0] / total)]]
    left = read[0]
    for label, documents, inside in lost:
        left -= documents
        share = documents / total
        rows.append(
            [label, f"−{whole(documents)}", percent(share), size(inside or None), bar(left / total, share, "lost")]
        )
    for label, (documents, inside), start in (("kept for training", train, 0.0), ("held out", val, train[0] / total)):
        share = documents / total
        rows.append([label, whole(documents), percent(share), size(inside), bar(start, share)])
    heads = ["", "documents", "share", "text", "what is left"]
    funnel = table("From raw documents to the corpus", heads, rows, "krrrb", "narrow hide-3")

    unreadable = counts.get("unreadable") or []
    aside = ""
    if isinstance(unreadable, list) and unreadable:
        shown = ", ".join(f"<code>{text(_label(one), 90)}</code>" for one in unreadable[:8])
        more = f" and {whole(len(unreadable) - 8)} more" if len(unreadable) > 8 else ""
        aside = f'<p class="note">{whole(len(unreadable))} unreadable, left out: {shown}{more}</p>\n'
    masked = ", ".join(f"{text(kind, 30)} {whole(number(n))}" for kind, n in mapping(counts.get("masked")).items())
    if masked:
        aside += f'<p class="note">Personal data masked: <span lang="ko">{masked}</span></p>\n'
    return _flow(story) + funnel + aside + _packed(story)


def _label(entry: Any) -> str:
    """The archive without its folders, the member, the cause."""
    if not isinstance(entry, dict):
        return str(entry)
    parts = [str(entry.get(key) or "") for key in ("archive", "member", "cause")]
    return ": ".join(part for part in (parts[0].rsplit("/", 1)[-1], *parts[1:]) if part)


def _flow(story: Story) -> str:
    """Bytes, tokens, rows: what became of the text."""
    kept, packed = mapping(story.counts("corpus")), story.counts("packed")
    read, train, val = (_amount(kept.get(key)) for key in ("read", "train", "val"))
    steps = [
        (size(read[1] or None), f"read, {whole(read[0])} documents"),
        (size(train[1] + val[1]), f"kept, {whole(train[0] + val[0])} documents"),
    ][not read[0] :]
    if packed:
        tokens, rows = (sum(of(packed, split, key) for split in ("train", "val")) for key in ("tokens", "rows"))
        steps.append((f"{short(tokens)} tokens", f"of {whole(of(packed, 'entries') or None)} entries"))
        steps.append((f"{whole(rows)} rows", f"of {whole(of(packed, 'sequence_length') or None)} tokens"))
    items = "".join(f"<li><div><b>{value}</b><span>{note}</span></div></li>" for value, note in steps)
    return f'<ol class="flow">{items}</ol>\n'


def _packed(story: Story) -> str:
    packed = story.counts("packed")
    if not packed:
        return missing("Not packed into rows yet.", KINDS["packed"][1])
    rows = []
    for split in ("train", "val"):
        documents, inside, tokens, count, padding = (
            of(packed, split, key) for key in ("documents", "bytes", "tokens", "rows", "padding")
        )
        per_token = inside / (tokens - documents) if tokens > documents else None
        row = [split, whole(documents), size(inside), whole(tokens), decimal(per_token), whole(count), whole(padding)]
        rows.append(row)
    heads = ["", "documents", "text", "tokens", "bytes per token", "rows", "padding tokens"]
    return table("Packed rows", heads, rows, "krrrrrr")


def tokenizer(story: Story) -> str:
    found = story.artifacts.get("tokenizer")
    if found is None:
        return missing("No tokenizer yet.", KINDS["tokenizer"][1])
    counts = story.counts("tokenizer")
    measured = counts.get("measured_on")
    return facts(
        [
            ("entries", whole(number(counts.get("entries")))),
            ("bytes per token", decimal(number(counts.get("bytes_per_token")))),
            ("tokens per eojeol", decimal(number(counts.get("tokens_per_eojeol")))),
            ("measured on", text(measured) if measured else NOTHING),
        ]
    ) + samples.coloured(found, story.artifacts.get("corpus"))


def tuning(run: Run | None, story: Story) -> str:
    if run is None:
        return missing("Not trained yet.", "python finetune/sft.py")
    counts = run.artifact.counts if run.artifact else {}
    rows = [
        ("parameters", short(number(counts.get("parameters")))),
        ("steps", whole(run.step or None)),
        ("tokens", short(run.tokens or None)),
        ("time", took(run.seconds) if run.seconds else NOTHING),
        ("held-out loss", decimal(run.held_out_loss, 3)),
        ("held-out answers exact", percent(run.exact)),
        ("peak memory", size(run.memory_mb * 1e6) if run.memory_mb else NOTHING),
    ]
    examples = story.counts("examples")
    if examples:
        rows.insert(0, ("examples", f"{whole(number(examples.get('train')))} + {whole(number(examples.get('val')))}"))
    charts = line_chart(
        "Loss",
        [Series("train", run.loss.points, "faint"), Series("held-out", run.held_out.points, "strong", dots=True)],
        "tokens",
        "first",
    )
    rate = Series("learning rate", run.learning_rate.points, "strong")
    speed = Series("tokens per second", run.speed.points, "strong")
    charts += line_chart("Learning rate", [rate], "tokens", zero=True)
    charts += line_chart("Tokens per second", [speed], "tokens", zero=True)
    if not charts:
        charts = f'<p class="missing">No step is logged in <code>{text(run.folder.name)}/metrics.jsonl</code>.</p>'
    broken = f'<p class="note">Steps whose loss is not a number: {whole(run.not_numbers)}.</p>\n'
    return facts(rows) + f'<div class="charts">{charts}</div>\n' + (broken if run.not_numbers else "")


def measured(story: Story) -> str:
    found = story.stages
    if not found:
        return missing("Not measured.", "make demo", "measures the time and memory of every stage")
    longest = max([number(stage.get("seconds")) or 0.0 for stage in found]) or 1.0
    rows = []
    for stage in found:
        seconds = number(stage.get("seconds"))
        rows.append(
            [
                text(stage.get("name", ""), 40),
                took(seconds) if seconds is not None else NOTHING,
                size((_peak(stage)) * 1e6 or None),
                bar(0, (seconds or 0.0) / longest),
                f"<code>{text(stage.get('command', ''), 300)}</code>",
            ]
        )
    machine = story.demo.get("machine")
    note = f'<p class="note">{text(machine, 300)}</p>\n' if machine else ""
    heads = ["stage", "time", "peak memory", "", "command"]
    return table("What each stage took", heads, rows, "krrbw", "wide") + note


def artifacts(story: Story) -> str:
    if not story.chain:
        return missing("Nothing is made yet.", "make demo", "makes everything")
    rows = []
    for one in story.chain:
        files = one.manifest.get("files", {})
        made_from = ", ".join(_parent(parent) for parent in one.manifest.get("parents", [])) or NOTHING
        rows.append(
            [
                f"{one.kind} {text(one.name)}",
                f"<code>{one.fingerprint}</code>",
                size(sum(number(file.get("bytes")) or 0.0 for file in files.values())),
                f"<code>{text(one.manifest.get('commit', ''), 30)}</code>",
                made_from,
                f"<code>{text(one.manifest.get('command', ''), 300)}</code>",
            ]
        )
    heads = ["artifact", "fingerprint", "size", "commit", "made from", "command"]
    return table("In the order in which they were made", heads, rows, "klrllw", "wide")


def _parent(parent: dict[str, Any]) -> str:
    label = f"{text(parent.get('kind'))} {text(parent.get('name'))}"
    return label if is_current(parent) else f'{label} <span class="stale">(since replaced)</span>'


def _amount(value: Any) -> tuple[float, float]:
    """Documents and bytes, of {"documents", "bytes"} or of a bare count."""
    return (of(value, "documents"), of(value, "bytes")) if isinstance(value, dict) else (number(value) or 0.0, 0.0)


def _peak(stage: dict[str, Any]) -> float:
    return of(stage, "peak_memory_mb")
