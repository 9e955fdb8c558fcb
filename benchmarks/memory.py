"""Peak memory of cutting text into chunks, of 100 MB and of 2 GB: it must not grow with the text.

`python benchmarks/memory.py [MEGABYTES ...]` takes some ten minutes of one processor and 3 GB of
disk in the temporary folder, and is no part of `make bench`. The text is made for it and removed
afterwards; JSON lines, and the smallest also compressed with gzip.
"""

from __future__ import annotations

import argparse
import gzip
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZES = (100.0, 2000.0)
#: How much more the largest text may take than the smallest: allocators do not repeat exactly.
ALLOWED = 1.1


def main() -> int:
    """Measure each size in a process of its own; return 1 if memory grew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("megabytes", nargs="*", type=float, default=SIZES)
    parser.add_argument("--cut", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cut:
        cut(*options.cut)
        return 0
    from chunks import documents, save_documents, save_tokenizer

    peaks = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_tokenizer(folder / "tokenizer")
        for megabytes in sorted(options.megabytes):
            file = folder / "text.jsonl"
            save_documents(documents(megabytes), file)
            peaks.append(measure(file, folder, f"{megabytes:g} MB"))
            if len(peaks) == 1:
                compressed = folder / "text.json.gz"
                with file.open("rb") as source, gzip.open(compressed, "wb", 1) as target:
                    shutil.copyfileobj(source, target)
                measure(compressed, folder, f"{megabytes:g} MB, gzip")
    grew = peaks[-1] / peaks[0]
    print(f"the largest takes {grew:.2f} x the memory of the smallest (at most {ALLOWED} x)")
    return int(grew > ALLOWED)


def measure(file: Path, folder: Path, what: str) -> float:
    """Cut a file in a new process; print and return the peak of its resident memory in MiB."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, __file__, "--cut", file, folder],
        env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    peak = float(done.stdout)
    seconds = time.perf_counter() - began
    print(f"{what}: {peak:.0f} MiB resident at most, {seconds:.0f} s", flush=True)
    return peak


def cut(file: Path, folder: Path) -> None:
    """Cut a file into chunks; print this process's peak resident memory in MiB (Linux)."""
    from chunks import specification

    from mend.data.corpus import write_chunks

    write_chunks(specification(folder / "tokenizer"), [file], folder / "chunks.parquet")
    # Not `resource.getrusage`, which counts what the parent had when it started this process.
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    [peak] = [line.split()[1] for line in status if line.startswith("VmHWM:")]
    print(int(peak) / 1024)


if __name__ == "__main__":
    sys.exit(main())
