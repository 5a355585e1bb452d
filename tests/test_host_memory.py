"""Memory of a CPU that is freed: it stays with the process where training wants it again."""

import subprocess
import sys

import pytest

TOUCH = """
import resource, sys
import torch
from lumbre.engine import AccelerateConfig
from lumbre.engine.compute import set_up

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def steps(count):
    began = faults()
    for _ in range(count):
        # More than the 32 MiB that glibc gives back whatever it has seen before.
        whole = torch.ones(10_000_000)
        del whole
    return faults() - began

set_up(torch.nn.Linear(2, 2), AccelerateConfig(keep_freed_memory=sys.argv[1] == "kept"))
steps(3)
print(steps(20))
"""


def faults_of_twenty_steps(how: str) -> int:
    environment = {"PATH": "/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", TOUCH, how], env=environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout.split()[-1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator is Linux's")
def test_memory_that_a_step_frees_is_not_mapped_again_in_the_next() -> None:
    assert faults_of_twenty_steps("kept") < 100
    # However large the pages are that the system maps.
    assert faults_of_twenty_steps("given back") > 300
