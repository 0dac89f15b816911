# Run by gdb for bench/footprint.exs: steps through one capture of a running VM, and prints the instructions, and the cache
# lines and pages that they lie in.
import collections
import os

import gdb

LINE, PAGE = 64, 4096
# The captures before the one that is measured: its code, and that of the VM, has run before.
WARM = 200
LIBRARY = "billdogeng_nif"

for setting in ("pagination off", "confirm off", "scheduler-locking off"):
    gdb.execute("set " + setting)
gdb.execute("handle all nostop noprint pass", to_string=True)


def quietly(command):
    return gdb.execute(command, to_string=True)


def register(name):
    return int(gdb.parse_and_eval("$" + name)) & (2**64 - 1)


def at_stack_top():
    return int(gdb.parse_and_eval("*(unsigned long *) $rsp"))


mappings = []
with open("/proc/%s/maps" % os.environ["FOOTPRINT_PID"]) as maps:
    for line in maps:
        addresses, *_, = line.split()
        start, end = (int(address, 16) for address in addresses.split("-"))
        path = line.split(maxsplit=5)[5].strip() if len(line.split()) > 5 else "compiled by the VM"
        mappings.append((start, end, os.path.basename(path)))


def mapping(address):
    return next((name for start, end, name in mappings if start <= address < end), "compiled by the VM")


base = min(start for start, _, name in mappings if name.startswith(LIBRARY))
for offset in os.environ["FOOTPRINT_ENTRIES"].split():
    quietly("break *%d" % (base + int(offset, 16)))
for _ in range(WARM):
    quietly("continue")
quietly("delete")
# The other threads stand still from here on.
quietly("set scheduler-locking on")

back, stack = at_stack_top(), register("rsp")
trace = []
while not (register("pc") == back and register("rsp") > stack):
    trace.append(register("pc"))
    if mapping(trace[-1]) == "[vdso]":
        # The kernel's clock would see each step as an interruption, and begin again.
        quietly("tbreak *%d" % at_stack_top())
        quietly("continue")
    else:
        quietly("stepi")


def symbol(address):
    text = quietly("info symbol %d" % address)
    if text.startswith("No symbol"):
        return "(no name)"
    name = text.split(" in section")[0].split(" + ")[0]
    return name.split("::h")[0]


def rows(of):
    counts, lines, pages = collections.Counter(), collections.defaultdict(set), collections.defaultdict(set)
    names = {address: of(address) for address in set(trace)}
    for address in trace:
        name = names[address]
        counts[name] += 1
        lines[name].add(address // LINE)
        pages[name].add(address // PAGE)
    return [(name, count, len(lines[name]), len(pages[name])) for name, count in counts.most_common()]


def show(title, rows):
    print("\n| %s | instructions | cache lines | pages |\n| --- | --- | --- | --- |" % title)
    for name, *numbers in rows:
        print("| %s | %s |" % (name, " | ".join("{:,}".format(number) for number in numbers)))


libraries = rows(mapping)
lines, pages = (sum(row[at] for row in libraries) for at in (2, 3))
show("code of", libraries + [("all", len(trace), lines, pages)])
show("function", rows(symbol)[:20])
gdb.execute("detach")
