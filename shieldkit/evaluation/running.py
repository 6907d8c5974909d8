"""Running cases: one after the other, or some at a time, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future

from shieldkit.evaluation.cases import Case, Outcome
from shieldkit.workers import Workers


def run(cases: Iterable[Case], judge: Callable[[Case], Outcome], *, jobs: int = 1) -> Generator[Outcome, None, None]:
    """The outcomes, in the order of the cases, each as soon as it is there.

    With `jobs` above 1 so many are judged at a time: faster for a server, and latencies are then those under load.
    Closing the iterator stops it; what is under way is not waited for.
    """
    if jobs == 1:
        yield from map(judge, cases)
        return
    workers = Workers("case", max_threads=jobs)
    waiting: deque[Future[Outcome]] = deque()
    try:
        for case in cases:
            waiting.append(workers.submit(lambda case=case: judge(case)))  # type: ignore[misc]
            if len(waiting) >= 2 * jobs:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        workers.close()
