"""Times a loop that does nothing but count; the breakpoint is in another function.

The argument is how many times it goes round.
"""

import sys
import time


def waiting(number: int) -> int:
    return number  # breakpoint


def loop(rounds: int) -> int:
    total = 0
    for number in range(rounds):
        total += number
    return total


def main(rounds: int) -> None:
    began = time.perf_counter()
    loop(rounds)
    seconds = time.perf_counter() - began
    waiting(-1)  # here the breakpoint's condition shows that it was there all the time
    print(f"bench-seconds {seconds:.9f}")


main(int(sys.argv[1]))
