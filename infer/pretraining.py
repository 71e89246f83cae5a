"""Pretraining on the page: what runs where, how good the model is on each source, and where the time went."""

import time
from typing import Any

from infer.charts import Marks, Series, decimal, facts, line_chart, missing, percent, short, size, took, whole
from infer.curves import Curve, Evaluation, Run
from infer.story import Story, mapping
from narae import markup
from narae.artifact import KINDS
from narae.ledger import CAUSES, Ledger
from narae.log import number
from narae.markup import NOTHING, named, table, text

LINES = 8  # sources that a chart can show, each with its line
ENDS = {"unknown": "no end recorded", "hang": "hung"} | {end: end for end in ("killed", "stopped", "lost a peer")}


def pretraining(story: Story) -> str:
    run = story.pretrained
    if run is None:
        return missing("Not trained yet.", KINDS["model"][1])
    laid = _facts(run)
    charts = _charts(run)
    if not charts:
        laid += f'<p class="missing">No step is logged in <code>{text(run.name)}/metrics.jsonl</code>.</p>\n'
    laid += f'<div class="charts">{charts}</div>\n'
    if run.not_numbers:
        laid += f'<p class="note">Steps whose loss is not a number: {whole(run.not_numbers)}.</p>\n'
    if run.skipped or run.rollbacks:
        figures = f"{whole(run.skipped)}; rollbacks: {whole(len(run.rollbacks))}"
        laid += f'<p class="note">Steps whose update was left out: {figures} (skipped.jsonl tells of each).</p>\n'
    return laid + sources(run) + (spent(run.ledger) if run.ledger else "")


def state(run: Run) -> str:
    """In a few words whether an unfinished run is running."""
    last = run.ledger.attempts[-1] if run.ledger else None
    if last is None or last.end in ("running", "unknown"):
        return "Training"
    if last.end == "finished":
        return "Trained, not published yet"
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(last.ended / 1000))
    how = last.end.capitalize() if last.end in ENDS else f"Stopped by {text(last.end, 20)}"
    return f"{how}, {when} (the same command goes on)"


def _facts(run: Run) -> str:
    counts, start, best = (run.artifact.counts if run.artifact else {}), run.start, _best(run)
    goodput = run.ledger.goodput if run.ledger and run.ledger.complete else None
    rows = [
        ("parameters", short(number(counts.get("parameters")))),
        ("steps", whole(run.step or None)),
        ("tokens", short(run.tokens or None)),
        ("rows read", short(run.rows)),
        ("epochs", _epochs(run.epoch)),
        ("time", took(run.seconds) if run.seconds else NOTHING),
        ("goodput", percent(goodput)),
        ("held-out loss", decimal(run.held_out_loss, 3)),
        ("bits per byte", decimal(run.bits_per_byte, 3)),
        ("best", f"{decimal(best.bits_per_byte, 3)} at step {whole(best.step)}" if best else NOTHING),
        ("next tokens right", percent(run.accuracy)),
        ("best checkpoint", f"step {whole(run.kept_best)}" if run.kept_best is not None else NOTHING),
        ("peak memory", size(run.memory_mb * 1e6) if run.memory_mb else NOTHING),
        ("machine", _machine(start)),
        ("precision", text(start["precision"], 20) if "precision" in start else NOTHING),
    ]
    return facts(rows)


def _machine(start: dict[str, Any]) -> str:
    if "device" not in start:
        return NOTHING
    ranks, rate = number(start.get("world")), number(start.get("matmul_per_s"))
    words = text(start["device"], 80)
    words += f", {whole(ranks)} {'rank' if ranks == 1 else 'ranks'}" if ranks else ""
    if rate:
        fast = f"{decimal(rate / 1e12, 1)} TFLOP/s" if rate >= 1e12 else f"{decimal(rate / 1e9, 0)} GFLOP/s"
        words += f", {fast}{' each' if ranks and ranks > 1 else ''} in a bare matrix product"
    return words


def _epochs(told: Any) -> str:
    sets = [(named(name), number(one)) for name, one in mapping(told).items()]
    return ", ".join(f"{name} {decimal(one)}" for name, one in sets) or decimal(number(told))


def _best(run: Run) -> Evaluation | None:
    judged = [one for one in run.evaluations if one.bits_per_byte is not None]
    return min(judged, key=lambda one: one.bits_per_byte or 0.0) if len(judged) > 1 else None


def _charts(run: Run) -> str:
    marks = [
        Marks("restart", [tokens for _, tokens in run.restarts], "restart"),
        Marks("rollback", run.rollbacks, "restart"),
        Marks("not a number", run.broken, "broken"),
    ]
    loss = [Series("train", run.loss.points, "faint"), Series("held-out", run.held_out.points, "strong", dots=True)]
    charts = line_chart("Loss", loss, "tokens", "first", marks=marks)
    shown = run.sources if 1 < len(run.sources) <= LINES else {}
    bits = [Series(name, curve.points, "faint source", tag=True) for name, curve in sorted(shown.items())]
    bits.append(Series("all held-out text", run.bits.points, "strong", dots=True))
    charts += line_chart("Bits per byte, held-out", bits, "tokens", "first")
    for title, curve, scale in (
        ("Held-out next tokens right, %", run.accuracies, 100.0),
        ("Learning rate", run.learning_rate, 1.0),
        ("Gradient norm", run.gradient, 1.0),
        ("Tokens per second that bear loss", run.speed, 1.0),
        ("MFU, % of a bare matrix product's rate", run.use, 100.0),
        ("Peak memory, GB", run.memory, 1e-3),
    ):
        charts += line_chart(title, [Series("", _scaled(curve, scale), "strong")], "tokens", zero=True)
    return charts


def _scaled(curve: Curve, scale: float) -> list[tuple[float, float]]:
    return [(x, scale * y) for x, y in curve.points]


def sources(run: Run) -> str:
    """What each source costs in bits per byte, the largest first."""
    judged = [one for one in run.evaluations if one.sources]
    if not judged:
        return ""
    first, last, best = judged[0], judged[-1], _best(run) or judged[-1]
    total = sum(one.get("bytes", 0.0) for one in last.sources.values())
    rows = []
    for name, figures in sorted(last.sources.items(), key=lambda one: -one[1].get("bytes", 0.0)):
        share = figures["bytes"] / total if total and "bytes" in figures else None
        then = [decimal(one.sources.get(name, {}).get("bits_per_byte"), 3) for one in (first, best, last)]
        rows.append([named(name), percent(share), *then, percent(figures.get("accuracy"))])
    then = [decimal(one.bits_per_byte, 3) for one in (first, best, last)]
    rows.append(["all", percent(1.0) if total else NOTHING, *then, percent(last.accuracy)])
    heads = ["source", "of the bytes", *(f"step {whole(one.step)}" for one in (first, best, last)), "tokens right"]
    heads[2:5] = [f"{word},<br>{step}" for word, step in zip(("first", "best", "latest"), heads[2:5], strict=True)]
    return table("Bits per byte of each source's held-out text", heads, rows, "krrrrr", "total narrow")


def spent(ledger: Ledger) -> str:
    """The goodput ledger: a bar with its legend, and the attempts."""
    if not ledger.allocated:
        return ""
    goodput = f"{percent(ledger.goodput)} of {took(ledger.allocated / 1000)} became training that stayed"
    legend = ""
    for cause, amount in ledger.spent.items():
        if amount:
            part = f"<b>{markup.share(amount, ledger.allocated)}</b> <small>{took(amount / 1000)}</small>"
            legend += f'<li><i class="{cause}"></i>{CAUSES[cause]} {part}</li>'
    pauses = f" Between the attempts: {took(ledger.pauses / 1000)}, not counted." if ledger.pauses else ""
    older = "" if ledger.complete else " Attempts of an older version count from their first step only."
    longest = max(attempt.allocated for attempt in ledger.attempts)
    rows = []
    for place, attempt in enumerate(ledger.attempts, start=1):
        rows.append(
            [
                str(place),
                time.strftime("%Y-%m-%d %H:%M", time.localtime(attempt.began / 1000)),
                f"{whole(attempt.first)} to {whole(attempt.last)}",
                took(attempt.allocated / 1000),
                markup.share(attempt.spent["training"], attempt.allocated),
                took(attempt.pause / 1000) if attempt.pause else NOTHING,
                ENDS.get(attempt.end, text(attempt.end, 20)),
                _bar(attempt.spent, longest),
            ]
        )
    heads = ["attempt", "began", "steps", "took", "stayed", "pause before", "ended", "by cause"]
    return (
        f'<h3>Where the time went</h3>\n<p class="lead">{goodput}.{pauses}{older}</p>\n'
        f'<div class="spent">{_bar(ledger.spent, ledger.allocated)}<ul>{legend}</ul></div>\n'
        + table("Attempts", heads, rows, "krrrrrlb", "wide")
    )


def _bar(spent: dict[str, int], total: float) -> str:
    start, stretches = 0, []
    for cause in CAUSES:
        stretches.append((float(start), float(spent.get(cause, 0)), cause))
        start += spent.get(cause, 0)
    return markup.bar(stretches, total)
