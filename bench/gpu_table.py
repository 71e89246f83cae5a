"""The shares of the card's rate that a run reaches, the table of a visit, and its last line."""

from typing import Any

from bench.gpu_plan import BATCHES

RATES = {"tokens_per_s": "", "tokens_per_s_of_steps": "_of_steps", "tokens_per_s_per_500_steps": "_per_500_steps"}


def complete(record: dict[str, Any], size: str, rates: dict[str, Any]) -> dict[str, Any]:
    """With what a rate means for this card: of its measured product of matrices, and of what its maker says (MFU)."""
    flops = rates.get("flops_per_token", {}).get(size)
    found = dict(record)
    for key, ending in RATES.items():
        if flops and key in record:
            found[f"of_matmul{ending}"] = round(record[key] * flops / rates["matmul_per_s"], 4)
            if rates.get("peak_per_s"):
                found[f"mfu{ending}"] = round(record[key] * flops / rates["peak_per_s"], 4)
    return found


def table(records: list[dict[str, Any]], about: dict[str, Any]) -> str:
    lines = [f"{about['machine']}, {about['date']}" + (": a dry run, no figure means anything" * about["dry_run"])]
    rates = next((one for one in records if one["name"] == "rates"), {})
    if "matmul_per_s" in rates:
        copy = f", copies {rates['copy_bytes_per_s'] / 1e12:.3g} TB/s" if "copy_bytes_per_s" in rates else ""
        lines.append(f"bf16 matrix products {rates['matmul_per_s'] / 1e12:.4g} TFLOP/s{copy}")
    heads = "tokens/s", "of steps", "matmul", "MFU", "step s", "stall s", "GB"
    lines.append(f"{'':36}" + "".join(f"{head:>10}" for head in heads))
    for one in records:
        if "tokens_per_s" in one:
            keys = "tokens_per_s", "tokens_per_s_of_steps", "of_matmul", "mfu", "step_s", "stall_s"
            cells = [one.get(key) for key in keys] + [one.get("memory_mb", 0) / 1e3]
            note = "" if one["status"] == "measured" else f"  {one['status']}"
            lines.append(f"{one['name']:36}" + "".join(cell(value) for value in cells) + note)
    for one in records:
        if "ms" in one:
            lines.append(
                f"{one['name']:36}{one['ms']:.3f} ms, {one['flop_per_s'] / 1e12:.3g} TFLOP/s, "
                f"{one.get('peak_mb', 0):,} MB"
            )
        if "one_stream" in one:
            many = f", {one['batch64']:,} with 64" if "batch64" in one else ""
            lines.append(f"{one['name']:36}{one['one_stream']:,} tokens/s with one text{many}")
        if "idle_share" in one:
            kinds = ", ".join(f"{kind} {share:.1%}" for kind, share in one["kinds"].items())
            lines.append(f"{one['name']:36}idle {one['idle_share']}; {kinds}")
    for status in ("failed", "absent", "passed over"):
        for one in records:
            if one["status"] == status:
                lines.append(f"{status}: {one['name']} ({one.get('reason', '')})")
    return "\n".join(lines) + "\n"


def cell(value: float | None) -> str:
    if value is None:
        return f"{'':>10}"
    return f"{value:>10,.0f}" if value >= 100 else f"{value:>10.3f}"


def headline(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Per model size; what was not measured is not there."""
    known = {one["name"]: one for one in records if "tokens_per_s" in one and one["status"] == "measured"}
    found: dict[str, Any] = {}
    for size in BATCHES:
        ours, stock = known.get(f"{size} ours", {}), known.get(f"{size} stock Trainer", {})
        found[size] = {key: ours[key] for key in ("tokens_per_s", "mfu", "of_matmul") if key in ours}
        if ours and stock:
            found[size]["vs_stock_trainer"] = round(ours["tokens_per_s"] / stock["tokens_per_s"], 3)
    return found
