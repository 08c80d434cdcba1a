"""Times importing every module of a folder, in which the breakpoints are.

The argument is the folder; what its modules are like stands in benchmarks/generated_modules.py.
"""

import sys
import time
from importlib import import_module
from pathlib import Path


def main(folder: Path) -> None:
    names = sorted(file.stem for file in folder.glob("*.py"))
    sys.path.insert(0, str(folder))
    began = time.perf_counter()
    modules = [import_module(name) for name in names]
    seconds = time.perf_counter() - began
    for module in modules:
        for function in module.FUNCTIONS:
            function(-1)  # here the breakpoints' condition shows that they are there
    print(f"bench-seconds {seconds:.9f}")


main(Path(sys.argv[1]))
