"""What the yardsticks share: one JSON request per line on stdin, one JSON answer per line on stdout; one thread."""
import json
import sys
import time
import traceback

import torch

torch.set_num_threads(1)

LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}


def serve(handle):
    """Answers each request until stdin ends; what handle raises becomes an error answer."""
    for line in sys.stdin:
        try:
            answer = handle(json.loads(line))
        except Exception as error:  # the bench reports it and goes on without this contender
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


def times(call, seconds, most, least=3):
    """Milliseconds of repeated calls: at least `least`, at most `most`, as many as fit into `seconds`."""
    milliseconds = []
    end = time.perf_counter() + seconds
    while len(milliseconds) < least or (len(milliseconds) < most and time.perf_counter() < end):
        start = time.perf_counter()
        call()
        milliseconds.append(1e3 * (time.perf_counter() - start))
    return milliseconds


def resident_mib(field="VmRSS"):
    """Resident memory of this process now (VmRSS) or at its largest since the last reset (VmHWM)."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith(field + ":"):
                return int(line.split()[1]) / 1024
    raise KeyError(field)


def reset_peak():
    """Lets the largest resident memory start again from what is resident now."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
