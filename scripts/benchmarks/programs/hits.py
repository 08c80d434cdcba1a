"""Times calls of the very function in which the breakpoint or the tracepoint is.

The argument is how many times it is called.
"""

import sys
import time


def visited(number: int) -> int:
    return number  # breakpoint


def main(rounds: int) -> None:
    began = time.perf_counter()
    for number in range(rounds):
        visited(number)
    seconds = time.perf_counter() - began
    visited(-1)  # here the breakpoint's condition shows that it was there all the time
    print(f"bench-seconds {seconds:.9f}")


main(int(sys.argv[1]))
