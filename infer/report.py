"""Everything about a model on one page: artifacts/report.html, a single file that opens anywhere.

    python infer/report.py                          # sample-chat, else sample, else the newest run
    python infer/report.py --run sample --out /tmp/report.html

It follows the parents of a run: packed text, tokenizer, corpus, sample. What is missing names the command that makes
it. Training writes the page again at each evaluation, and the page reloads itself until the run is finished.
"""

import argparse
import base64
import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from string import Template

from infer.charts import size
from infer.sections import body, headline
from infer.story import Story, gather
from narae.artifact import root
from narae.log import Mistake, say
from narae.markup import NOTHING, text

WEB = Path(__file__).with_name("web")
RELOAD = 15  # seconds


@dataclass
class Options:
    run: str
    out: Path


def main() -> None:
    options = _options()
    story = gather(options.run)
    page = render(story)
    write(options.out, page)
    if story.run is None and not story.chain:
        say(f"nothing is made yet, `make demo` runs every stage; an empty page: {options.out}")
        return
    known = ", ".join(f"{label.lower()} {value}" for label, value, _ in headline(story) if value != NOTHING)
    say(f"{known or 'no numbers yet'} ({size(len(page.encode('utf-8', 'replace')))}): {options.out}")


def _options() -> Options:
    # narae.config.parse would import trl, and with it torch: seconds, at each evaluation of a training run.
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--run", default="", help="a folder of artifacts/runs (sample-chat, else sample, else the newest)"
    )
    parser.add_argument("--out", default="", help="the file to write (artifacts/report.html)")
    found = parser.parse_args()
    out = Path(found.out).expanduser() if found.out else root() / "report.html"
    if out.is_dir():
        raise Mistake(f"--out {out} is a folder: name a file in it, such as {out / 'report.html'}")
    return Options(found.run, out)


def render(story: Story) -> str:
    script = (WEB / "report.js").read_text(encoding="utf-8")
    # Only this very script runs, whatever a corpus or a model brought into the page; and nothing is loaded.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    running = story.run is not None and not story.run.finished
    return Template((WEB / "report.html").read_text(encoding="utf-8")).substitute(
        policy=f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'",
        refresh=f'<meta http-equiv="refresh" content="{RELOAD}">\n' if running else "",
        title=text(f"{story.run.name} · Narae" if story.run else "Narae"),
        css=(WEB / "report.css").read_text(encoding="utf-8"),
        js=script,
        body=body(story, time.strftime("%Y-%m-%d %H:%M:%S %z")),
    )


def write(out: Path, page: str) -> None:
    """Whole or not at all: a browser that reloads in between sees the old page."""
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f".{out.name}-{os.getpid()}")
    try:
        draft.write_bytes(page.encode("utf-8", "replace"))  # lone surrogates become ?
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
