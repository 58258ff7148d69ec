"""A peer's process: what both runners' peers have in common.

The first argument is JSON, the job. Then one command a line on standard input, one line of JSON as the answer:

    warm        a small part of the work, untimed: libraries load, compile and allocate what they keep
    run         the whole work: seconds, processor time of all threads, and extra_mb, the memory over that before the call less the result itself
                (None where it is not known)
    save DIR    the last result as .npy files
"""

import json
import sys
import time

import numpy as np

job = json.loads(sys.argv[1])


def answer(**fields):
    print(json.dumps(fields), flush=True)


def array_of(value):
    """Of a tensor or an array, as the runner reads it: no bfloat16, no 64-bit integers."""
    if hasattr(value, "detach"):
        value = value.detach()
        value = (value.float() if str(value.dtype) == "torch.bfloat16" else value).cpu().numpy()
    array = np.asarray(value)
    return np.ascontiguousarray(array.astype(np.int32) if array.dtype == np.int64 else array)


def bytes_of(result):
    return sum(value.nbytes if hasattr(value, "nbytes") else value.nelement() * value.element_size() for value in result.values())


def serve(run, warm, before, after, complete=lambda result: None):
    """Answers commands. `before()` is called ahead of the clock; `after(start, size)` behind it, with what `before` gave and the result's bytes,
    and gives extra_mb. `run` has done its work when it returns. `complete(result)` adds to a result what is compared and not timed."""
    result = None
    answer(ready=True)
    for line in sys.stdin:
        command, _, argument = line.strip().partition(" ")
        if command == "warm":
            warm()
            answer()
        elif command == "run":
            result = None
            started = before()
            start, busy = time.perf_counter(), time.process_time()
            result = run()
            seconds, busy = time.perf_counter() - start, time.process_time() - busy
            answer(seconds=seconds, cpu_s=busy, extra_mb=after(started, bytes_of(result)))
        elif command == "save":
            complete(result)
            for name, value in result.items():
                np.save(f"{argument}/{name}.npy", array_of(value))
            answer()
