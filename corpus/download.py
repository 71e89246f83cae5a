"""python corpus/download.py --search 도서                                   finds a set
python corpus/download.py --dataset 653 --list                          its files
python corpus/download.py --dataset 653 [--match 'TL_*'] [--to data]    fetches them

Sets of AIHub, with its key in the environment variable AIHUB_APIKEY: straight to their place, parts joined, every
member of every zip read once against its CRC. A file has its name only when it is right; the same command again
fetches what is still missing. NARAE_AIHUB_URL names a mirror; proxies come from the environment.
"""

import contextlib
import errno
import fnmatch
import os
import re
import shlex
import shutil
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from corpus.aihub_api import KEYS, PAGE, Remote, Server
from corpus.aihub_fetch import Fetch, Folder
from corpus.aihub_stream import DamagedError
from narae.config import option, parse
from narae.log import Mistake, Progress, say

SHOWN = 20  # sets: of more, a search does not ask for the sizes


@dataclass
class DownloadConfig:
    dataset: int = option(0, "key of the set")
    search: str = option("", "list the sets whose name holds this, with their keys and sizes")
    files: list[int] = option([], "keys of the files to fetch (none: all)")
    match: list[str] = option([], "fetch the files whose name or path matches one of these patterns")
    to: str = option("data", "folder that they are written to")
    retries: int = option(5, "how often a cut connection is tried again")
    wait: float = option(2.0, "seconds before the first time; each further wait is twice as long, at most a minute")
    timeout: float = option(120.0, "seconds without an answer, or with less than 1 kB/s, that count as cut")
    list: bool = option(False, "list the files of the set")


def main() -> None:
    config: DownloadConfig = parse(DownloadConfig, about=__doc__)
    if config.retries < 0 or config.wait < 0 or config.timeout <= 0:
        raise Mistake("--retries and --wait cannot be negative, and --timeout must be more than 0")
    key = os.environ.get("AIHUB_APIKEY", "").strip()
    server = Server(config.retries, config.wait, config.timeout, key)
    if config.search:
        search(server, config.search)
    elif not config.dataset:
        if config.list or config.files or config.match:
            raise Mistake("--dataset KEY says of which set; --search WORD finds it")
        explain(key)
    else:
        if not key and not config.list:
            raise Mistake(f"AIHUB_APIKEY is not set: get a key at {KEYS}, then export AIHUB_APIKEY=…")
        if not re.fullmatch(r"[!-~]*", key):
            raise Mistake("AIHUB_APIKEY holds spaces or letters that no key has: copy it again")
        listed = server.files(config.dataset)
        remotes = chosen(listed, config)
        if config.list:
            for remote in remotes:
                print(f"{remote.key:>8}  {remote.shown:>8}  {remote.path}")
            print(f"{len(remotes):,} files, about {sized(sum(remote.size for remote in remotes))}")
            return
        try:
            download(server, config, remotes, {remote.path for remote in listed})
        except KeyboardInterrupt:
            say("stopped; the same command goes on from here")
            raise SystemExit(130) from None
        except OSError as error:
            remedy = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "mend that or name another"
            raise Mistake(
                f"--to {config.to}: {error.strerror} ({error.filename or 'while writing'}); {remedy}"
            ) from None


def explain(key: str) -> None:
    print(f"""Fetches sets of AIHub. It needs
  a key       in AIHUB_APIKEY ({"it is set" if key else "not set yet"}), sent by e-mail from {KEYS}
  a set       --dataset KEY
  approval    asked for on the page of the set, {PAGE.format("KEY")}
python corpus/download.py --search 도서
python corpus/download.py --dataset 653 --list
python corpus/download.py --dataset 653 --to data""")


def search(server: Server, word: str) -> None:
    word = unicodedata.normalize("NFC", word)
    found = {key: name for key, name in server.sets().items() if word.casefold() in name.casefold()}
    if not found:
        raise Mistake(f"--search {word}: no set of AIHub has this in its name")
    for key, name in found.items():
        size = ""
        if len(found) <= SHOWN:
            with contextlib.suppress(Mistake):  # some sets are in the list, but not to be had
                size = sized(sum(remote.size for remote in server.files(key)))
        print(f"{key:>8}  {size:>8}  {name}")
    if len(found) > SHOWN:
        print(f"{len(found)} sets; sizes are shown for {SHOWN} at most: search for more of the name")


def chosen(remotes: list[Remote], config: DownloadConfig) -> list[Remote]:
    if strange := sorted(set(config.files) - {remote.key for remote in remotes}):
        raise Mistake(
            f"--files {' '.join(map(str, strange))}: set {config.dataset} has no such file; --list shows them"
        )
    patterns = [unicodedata.normalize("NFC", pattern) for pattern in config.match]
    wanted = [
        remote
        for remote in remotes
        if remote.key in config.files
        or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns for name in (remote.name, remote.path))
    ]
    if not wanted and patterns:
        raise Mistake(f"--match {' '.join(patterns)}: none of {len(remotes)} files, like {remotes[0].name}, matches")
    return wanted or remotes


def download(server: Server, config: DownloadConfig, remotes: list[Remote], listed: set[str]) -> None:
    with Folder(Path(config.to), config.dataset) as folder:
        missing = [remote for remote in remotes if not folder.has(remote)]
        if len(missing) < len(remotes):
            say(f"{len(remotes) - len(missing)} of {len(remotes)} files are here already")
        make_room(folder, missing)
        failed: dict[str, str] = {}
        bar = Progress("download", sum(remote.size for remote in missing) / 1e6, "MB")
        before = 0
        with contextlib.closing(bar):
            for remote in missing:
                volume = f"{remote.path[:-4]}.z01" in listed
                try:
                    Fetch(server, folder, remote, bar, before, volume).run()
                except DamagedError as error:
                    failed[remote.name] = str(error)
                before += remote.size
        if failed:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
            raise Mistake(
                f"{len(failed)} of {len(remotes)} files did not arrive: {reasons}. The same command fetches them again"
            )
        report(folder, remotes)


def make_room(folder: Folder, missing: list[Remote]) -> None:
    need = sum(remote.size + remote.unit for remote in missing)  # the list rounds, perhaps down
    there = sum(file.stat().st_blocks * 512 for one in missing for file in folder.partials(one.key) if file.exists())
    free = shutil.disk_usage(folder.path).free
    if need - there > free:
        raise Mistake(
            f"--to {folder.path} has {sized(free)} free, and {len(missing)} files need up to {sized(need - there)}: "
            "free some, name another folder, or choose files with --files or --match"
        )


def report(folder: Folder, remotes: list[Remote]) -> None:
    files = [file for remote in remotes for file in folder.done[str(remote.key)]]
    bare = sum(not path.lower().endswith(".zip") for path, _ in files)
    note = f" ({bare} are no zips: their length is right, more cannot be checked)" if bare else ""
    tops = shlex.join(sorted({str(folder.path / path.split("/")[0]) for path, _ in files}))
    total = sized(sum(size for _, size in files))
    say(f"{len(files)} files, {total}, are in {folder.path}{note}; next: python corpus/collect.py --sources {tops}")


def sized(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


if __name__ == "__main__":
    main()
