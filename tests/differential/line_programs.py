"""Small programs whose line events are awkward, for sessions under two debuggers.

Each is text, because its layout is the point: a formatter would take the one-line loops apart.
No variable is called like a command (`n`, `x`, `args`): pdbpp shows the variable then. Values are
small and the same in every run, since what is printed of them is compared.
"""

LOOPS = {
    "for": """
def total(num):
    tot = 0
    for item in range(num):
        tot += item
    return tot

total(0)
total(3)
""",
    "for_on_one_line": """
def total(num):
    tot = 0
    for item in range(num): tot += item
    for item in range(num): pass
    return tot

total(0); total(3)
for num in range(2): total(num)
""",
    "for_header_over_lines": """
def pairs(num):
    out = []
    for (first,
         second) in zip(
             range(num),
             range(num, 0, -1)):
        out.append(first - second)
    return out

pairs(3)
""",
    "for_else": """
def search(num):
    for item in range(4):
        if item == num: break
        if item > num:
            continue
    else:
        return -1
    return item

search(1)
search(9)
""",
    "nested_for": """
def table(num):
    tot = 0
    for row in range(num):
        for column in range(row): tot += row * column
        for column in range(row):
            if column: continue
            tot -= 1
    return tot

table(4)
""",
    "while": """
def halve(num):
    while num > 1:
        if num % 2:
            num -= 1
            continue
        num //= 2
    else:
        num = 7
    return num

halve(0)
halve(5)
""",
    "while_on_one_line": """
def down(num):
    while num > 0: num -= 1
    return num

down(3)
left = 2
while left: left -= 1
""",
    "while_true": """
def climb(num):
    while True:
        num += 1
        if num > 5:
            break
    while 1:
        num -= 1
        if num < 3: return num

climb(1)
""",
    "if_over_lines": """
def kind(num):
    if (num and
        num > 1 and
        num < 9):
        return 1
    elif num == 0: return 2
    elif (num ==
          1):
        return 3
    else:
        return 4

for item in (0, 1, 4, 9):
    kind(item)
""",
}

EXCEPTIONS = {
    "try": """
def careful(num):
    try:
        if num: raise ValueError(num)
        tot = 1
    except ValueError as error:
        tot = 2
    else:
        tot = 3
    finally:
        tot += 1
    return tot

careful(0)
careful(1)
""",
    "try_in_loop": """
def divide(num):
    out = []
    for item in range(num):
        try: out.append(6 // item)
        except ZeroDivisionError: out.append(None)
    for item in range(num):
        try:
            if item == 1: continue
            if item == 3: break
            6 // (item - 2)
        except ZeroDivisionError: pass
        finally:
            last = item
    return out, last

divide(5)
""",
    "return_in_finally": """
def first(num):
    try:
        return num
    finally:
        num = 4

def second(num):
    for item in range(num):
        try:
            return 10 // item
        except ZeroDivisionError:
            continue
        finally:
            num += 1
            if num > 90:
                return -1

first(1)
second(3)
""",
    "raise_through_frames": """
def inner(num):
    if num > 2:
        raise KeyError(
            num
        )
    return num

def middle(num):
    try:
        return inner(num)
    finally:
        tot = num

def outer(num):
    try:
        return middle(num) + middle(num + 2)
    except LookupError as error:
        raise ValueError(num) from error

def top(num):
    try:
        outer(num)
    except ValueError:
        return -1

outer(0)
top(1)
""",
    "except_star": """
def group(num):
    tot = 0
    try:
        if num:
            raise ExceptionGroup("both", [ValueError(1), TypeError(2)])
    except* ValueError as error:
        tot += 1
    except* (TypeError,
             KeyError):
        tot += 2
    else:
        tot = 9
    return tot

group(0)
group(1)
""",
    "uncaught": """
def inner(num):
    tot = num - 1
    return 10 // tot

def outer(num):
    for item in range(num):
        try:
            tot = inner(item)
        finally:
            num -= 1
    return tot

outer(3)
""",
    "exit": """
import sys

def leave(num):
    try:
        if num:
            sys.exit()
    finally:
        num = 0

leave(0)
leave(1)
num = 5
""",
    "with": """
import contextlib

class Context:
    def __init__(self, swallows=False): self.swallows = swallows
    def __enter__(self): return 1
    def __exit__(self, *details):
        return self.swallows

def single(num):
    with Context() as one:
        num += one
    return num

def several(num):
    with Context() as one, \\
         Context(True) as two:
        10 // num
        tot = one + two
    with (
        Context(),
        Context(swallows=True),
    ):
        with Context() as one: 10 // num
        return 1
    return 5

def looped(num):
    for item in range(num):
        with contextlib.suppress(ZeroDivisionError):
            1 // item
            if item == 2: return item

single(1)
several(0)
several(2)
looped(4)
""",
    "context_manager": """
class Manager:
    def __init__(self, started): self.started = started
    def __enter__(self): return next(self.started)
    def __exit__(self, kind, error, trace):
        if kind is None:
            next(self.started, None)
            return False
        try:
            self.started.throw(error)
        except StopIteration: return True

def manager(function):
    return lambda num: Manager(function(num))

@manager
def lent(num):
    tot = num
    try:
        yield tot
    except ValueError:
        tot = 0
    finally:
        tot -= 1

def borrow(num):
    with lent(num) as tot:
        if tot: raise ValueError
        tot = 3
    return tot

borrow(0)
borrow(2)
""",
    "assert": """
def check(num):
    assert num >= 0, \\
        "negative"
    assert (num
            < 5), (
        num
    )
    return num

check(2)
try: check(7)
except AssertionError: num = 0
""",
}

EXPRESSIONS = {
    "call_over_lines": """
def plus(first, second=0, *, third=0):
    return first + second + third

def calls(num):
    tot = plus(
        num,
        plus(num,
             third=3),
        third=plus(
            num
        ),
    )
    tot = (plus(tot)
           .bit_length())
    return max(
        tot,
        num,
        key=lambda value:
            -value)

calls(2)
""",
    "literal_over_lines": """
def build(num):
    listed = [
        num,
        num + 1,
        *(item
          for item in range(num)),
    ]
    keyed = {
        "sum": sum(listed),
        "len": len(
            listed),
    }
    return (listed,
            keyed)

build(2)
""",
    "conditional": """
def choose(num):
    tot = (1 if num
           else 2)
    yes = num and \\
        tot or \\
        3
    chained = 0 < num < 5 and (
        num == 1 or
        num == 2)
    return tot, yes, not (
        chained)

choose(0)
choose(2)
""",
    "semicolons": """
def several(num):
    one = 1; two = 2; tot = one + two
    if num: one = 2; two = 3
    for item in range(num): tot += item; tot += 1
    return tot; tot = 9

several(0); several(2)
num = 1; tot = several(num); num = tot
""",
    "f_string": '''
def told(num):
    text = f"{num}" \\
        f"{num + 1}"
    text += f"""{num}
{num +
 2} {max(num,
         3)}"""
    return text

told(1)
''',
    "unpacking": """
def unpack(num):
    first, *rest = (num,
                    2, 3)
    (second,
     third) = first, num
    [fourth, (fifth,
              sixth)] = 4, (5,
                            num)
    both = again = third
    first, second = second, first
    return first + fifth

unpack(6)
""",
    "subscripts": """
class Box:
    def __init__(self): self.held = {}
    def __getitem__(self, key):
        return self.held.get(key, 0)
    def __setitem__(self, key, value): self.held[key] = value
    @property
    def size(self): return len(self.held)

def fill(num):
    box = Box()
    box[num] = 1
    box[
        num + 1
    ] = box[num] + \\
        box[9]
    box[num] += box.size
    return box.held

fill(1)
""",
    "del_and_global": """
COUNT = 0

def forget(num):
    global COUNT
    one = two = num
    del one, \\
        two
    COUNT = (COUNT +
             num)

def shared():
    tot = 0
    def add(num):
        nonlocal tot
        tot += num
    add(1); add(2)
    return tot

forget(2)
shared()
del COUNT
""",
    "match": """
class Point:
    __match_args__ = ("left", "right")
    def __init__(self, left, right): self.left = left; self.right = right

def seen(value):
    match value:
        case 0:
            return "zero"
        case [first, second] if first > second:
            return first
        case [_, *_]: return "list"
        case {"key": found}:
            return found
        case Point(left=0) | Point(
                right=0):
            return "axis"
        case _:
            pass
    match value, \\
          1:
        case (str(), 1): return 3

for value in 0, [2, 1], [1, 2], {"key": 5}, Point(1, 0), "text":
    seen(value)
""",
    "walrus": """
def halves(num):
    out = []
    while (half := num // 2) > 0: out.append(half); num = half
    if (last := len(
            out)) > 1:
        return last
    return [tot := tot_before + 1 for tot_before in out]

halves(8)
halves(3)
""",
}

SCOPES = {
    "module_level": """
\"\"\"A module that only runs, with a docstring.\"\"\"

num = 3
tot = 0
for item in range(num):
    if item == 1:
        tot += 10
    else: tot += 1
try:
    tot //= 0
except ZeroDivisionError:
    tot = -1
while num: num -= 1
if __name__ == "__main__":
    tot += 1
""",
    "comprehensions": """
def listed(num):
    one = [item for item in range(num)]
    odd = [item
           for item in range(num)
           if item % 2]
    keyed = {item: item + 1 for item in range(num)}
    flat = {column
            for row in range(num)
            for column in range(row)}
    lazy = (item for item in one
            if item)
    return odd, keyed, flat, list(lazy), any(item > 1 for item in one)

listed(3)
top = [item
       for item in range(2)]
""",
    "lambdas": """
def apply(num):
    plus = lambda value: value + 1; tot = plus(plus(num))
    twice = lambda value: (
        value +
        value)
    return sorted([3, 1, 2], key=lambda value:
                  -value), twice(tot)

apply(1)
""",
    "decorators": """
def counted(label):
    def decorate(function):
        def wrapper(*given, **named):
            wrapper.calls += 1
            return function(*given, **named)
        wrapper.calls = 0
        return wrapper
    return decorate

def same(function): return function

@counted("outer")
@same
@counted(
    "inner"
)
def plus(first,
         second=len("ab")):
    return (first +
            second)

@same
class Box:
    @staticmethod
    @same
    def size(num): return num

plus(1)
plus(2, second=5)
Box.size(3)
""",
    "nested_classes": """
class Outer:
    size = 3
    names = [str(item) for item in range(size)]
    for item in range(2): size += item

    class Inner:
        def grow(self, num):
            class Local(Outer):
                size = num

                def grow(self): return super().size + num
            return Local().grow()

    def __init__(self):
        self.inner = Outer.Inner()

    def grow(self): return self.inner.grow(self.size)

Outer().grow()
""",
    "closures": """
def counter(start):
    tot = start

    def add(num):
        nonlocal tot
        tot += num
        def show():
            return tot, num
        return show

    return add

add = counter(1)
show = add(2)
show()
counter(5)(1)()
""",
    "recursion": """
def fact(num):
    if num < 2:
        return 1
    return num * fact(
        num - 1)

def even(num): return num == 0 or odd(num - 1)
def odd(num): return num > 0 and even(num - 1)

fact(4)
even(3)
""",
    "executed": """
import pathlib

beside = pathlib.Path(__file__).with_name("executed_code.py")
source = beside.read_text()

def execute(num):
    names = {"num": num}
    exec(compile(source, str(beside), "exec"), names)
    return names["tot"]

execute(2)
execute(3)
eval("[item for item in range(2)]")
""",
    "imported": """
def use(num):
    import imported_module
    tot = imported_module.double(num)
    tot += sum(imported_module.count(num))
    return tot

use(1)
use(2)
""",
}

SUSPENDED = {
    "generator": """
def count(num):
    for item in range(num):
        got = yield item
        if got: return got

def one_line(num): yield num; yield num + 1

def chain(num):
    yield from count(num)
    found = yield from (item for item in
                        range(2))
    yield from one_line(num)

def use(num):
    out = list(chain(num))
    for item in count(num): out.append(item)
    for item in one_line(num):
        if item: break
    return out

use(2)
""",
    "generator_sent_to": """
def receive(num):
    tot = 0
    try:
        while True:
            try:
                got = yield tot
                tot += got
            except ValueError: tot = -num
    finally:
        tot = 0

def drive(num):
    held = receive(num)
    next(held)
    held.send(2); held.send(3)
    held.throw(ValueError)
    held.close()
    return num

drive(1)
""",
    "coroutine": """
import types

@types.coroutine
def pause(num):
    got = yield num
    return got

class Context:
    async def __aenter__(self): return 1
    async def __aexit__(self, *details):
        await pause(0)

async def count(num):
    for item in range(num):
        await pause(item)
        yield item

async def work(num):
    async with Context() as one:
        num += one
        await pause(
            num)
    async for item in count(num):
        num += item
    async for item in count(2): num += item
    listed = [item async for item in count(num)
              if item]
    return await pause(num), listed

def drive(coroutine):
    try:
        while True: coroutine.send(None)
    except StopIteration as stop:
        return stop.value

drive(work(1))
""",
    "asyncio": """
import asyncio

async def child(num):
    await asyncio.sleep(0)
    return num + 1

async def main(num):
    tot = await child(num)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(child(item)) for item in range(num)]
    return tot + sum(task.result() for task in tasks)

asyncio.run(main(2))
""",
}

PROGRAMS: dict[str, str] = {
    name: text.removeprefix("\n")
    for group in (LOOPS, EXCEPTIONS, EXPRESSIONS, SCOPES, SUSPENDED)
    for name, text in group.items()
}

WITH_LIBRARY = {"asyncio", "imported"}
"""Programs with frames of the standard library between their own. Under pdb, up to 3.12, `n` and
`r` do not come back to those where they were not stepped into; and `s` into an import comes by
what modpdb has put there."""

BESIDE = {
    "executed_code.py": """\
tot = 0
def add(item):
    return tot + item
for item in range(num):
    tot = add(item)
""",
    "imported_module.py": """\
FACTOR = 2

def double(num):
    return num * FACTOR

def count(num):
    for item in range(num): yield item
""",
}
"""Files that lie beside each program: one that is imported, one that is executed by name."""
