#!/usr/bin/env python3
"""Brings llama.cpp's conversion scripts and prints the path of the folder they lie in.

They are taken from the source distribution of llama-cpp-python on PyPI, which carries llama.cpp's
tree: `convert*.py`, `conversion/`, `gguf-py/` and `examples/model-conversion/` are kept, in a
cache, and the rest is thrown away. Downloading is left to pip, so that indexes, mirrors and
proxies are those that the user has configured. Needs the standard library and pip only.
"""

import argparse
import hashlib
import re
import subprocess
import sys
import tarfile
import tempfile
import zlib
from pathlib import Path

NEWEST = "0.3.36"
"""The version that is fetched unless another is asked for: launcher and `conversion/` package."""
SINGLE_FILE = "0.3.9"
"""One of mid 2025, whose convert_hf_to_gguf.py is a single file and needs no mistral_common."""
CACHE = Path(__file__).resolve().parent.parent / ".cache"
WANTED = re.compile(
    r"[^/]+/vendor/llama\.cpp/"
    r"(convert[^/]*\.py|(?:conversion|gguf-py|examples/model-conversion)/.+)"
)


class FetchError(Exception):
    """The scripts cannot be had; the message is a sentence for the person who wanted them."""


def say(message: str) -> None:
    print(f"fetch_llama_cpp: {message}", file=sys.stderr, flush=True)


def download(version: str, folder: Path) -> Path:
    """Downloads the source distribution into folder with pip; returns its path."""
    # `--no-binary :all:` would also have pip build its own build tools from source.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--no-binary", "llama-cpp-python", "--dest", str(folder)]
    done = subprocess.run(
        [*command, f"llama-cpp-python=={version}"], capture_output=True, text=True, check=False
    )
    files = list(folder.glob("llama_cpp_python-*.tar.gz"))
    if done.returncode != 0 or not files:
        said = done.stderr.strip().splitlines() or ["no reason given"]
        raise FetchError(
            f"pip could not download llama-cpp-python {version} ({said[-1]}); "
            "is there a network, and an index that pip may use?"
        )
    return files[0]


def extract(sdist: Path, folder: Path) -> None:
    """Unpacks the conversion scripts alone, without the folders above them, into folder.

    Raises FetchError where the archive is damaged, reaches outside of folder or holds no
    convert_hf_to_gguf.py.
    """
    if not hasattr(tarfile, "data_filter"):
        raise FetchError("unpacking safely needs Python 3.11.4 or later")
    try:
        with tarfile.open(sdist, "r:gz") as archive:
            for member in archive:
                if match := WANTED.fullmatch(member.name):
                    archive.extract(member.replace(name=match[1]), folder, filter="data")
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise FetchError(f"{sdist.name} cannot be unpacked: {error}") from error
    if not (folder / "convert_hf_to_gguf.py").is_file():
        raise FetchError(f"{sdist.name} holds no vendor/llama.cpp/convert_hf_to_gguf.py")


def fetch(version: str = NEWEST, cache: Path = CACHE) -> Path:
    """Returns the folder of that version's conversion scripts, downloaded if it is not there yet.

    Raises FetchError. The folder gets its name when it is complete, by a rename, so that neither
    an interrupted run nor one at the same time leaves half a tree to be taken for a whole one.
    The name holds a hash of WANTED: where more is wanted than before, a new tree is brought.
    """
    wanted = hashlib.sha256(WANTED.pattern.encode()).hexdigest()[:6]
    tree = cache / f"llama.cpp-{version}-{wanted}"
    if tree.is_dir():
        return tree
    cache.mkdir(parents=True, exist_ok=True)
    say(f"downloading llama-cpp-python {version} (up to 80 MB) for its conversion scripts")
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=cache) as work:
        unpacked = Path(work, "llama.cpp")
        extract(download(version, Path(work)), unpacked)
        try:
            unpacked.rename(tree)
        except OSError:
            if not tree.is_dir():  # else another run was quicker, and its tree is as good
                raise
    say(f"kept in {tree}")
    return tree


def main() -> int:
    parser = argparse.ArgumentParser(description="Brings llama.cpp's conversion scripts.")
    parser.add_argument("--version", default=NEWEST, help="of llama-cpp-python (%(default)s)")
    parser.add_argument(
        "--single-file",
        dest="version",
        action="store_const",
        const=SINGLE_FILE,
        help=f"the same as --version {SINGLE_FILE}: a tree from before there was conversion/",
    )
    parser.add_argument("--cache", type=Path, default=CACHE, help="where to keep them (.cache)")
    args = parser.parse_args()
    try:
        print(fetch(args.version, args.cache))
    except (FetchError, OSError) as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
