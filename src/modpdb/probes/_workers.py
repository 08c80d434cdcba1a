"""Work on one chunk after the other, spread over a few threads.

torch would spread each single operation over the cores and wait for all of them after each: on a
machine that is busy with other things that takes ten times as long as one thread alone. So each
thread here takes whole chunks, and torch is told to use no more threads below it.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from typing import Any, TypeVar

from modpdb.probes._torch import undisturbed

WORKERS = 3  # at most: each holds about 12 MiB of copies of a chunk

Chunk = TypeVar("Chunk")
Done = TypeVar("Done")


def in_threads(
    torch: Any, chunks: Iterable[Chunk], work: Callable[[Chunk], Done]
) -> Iterator[Done]:
    """`work` of each chunk, in their order; of one or two without any thread.

    *chunks* are made in the calling thread. An exception of *work* is raised where its result
    would have come.
    """
    chunks = iter(chunks)
    first = list(islice(chunks, 2))
    following = next(chunks, None)
    workers = min(WORKERS, os.cpu_count() or 1)
    if following is None or workers == 1:
        rest = chunks if following is None else chain([following], chunks)
        for chunk in chain(first, rest):
            yield work(chunk)
        return

    def undisturbed_work(chunk: Chunk) -> Done:
        with undisturbed(torch):  # which holds for a thread
            return work(chunk)

    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, "modpdb", torch.set_num_threads, (1,))
    try:
        waiting: deque[Future[Done]] = deque()
        for chunk in chain(first, [following], chunks):
            waiting.append(pool.submit(undisturbed_work, chunk))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        # That of a thread is its own, but it is also what threads begin with that come later.
        torch.set_num_threads(threads)
