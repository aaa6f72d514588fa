"""Which lines of a dead worker's output are shown."""

from __future__ import annotations

from hpccluster.state.scheduler.from_workers import last_words

DUMP = """before
Fatal Python error: Segmentation fault

Thread 0x00007f76cbfff6c0 (most recent call first):
  File "executor.py", line 113 in _work

Current thread 0x00007f76d4a18b80 (most recent call first):
  File "ctypes/__init__.py", line 519 in string_at
  File "sim.py", line 88 in simulate
  File "executor.py", line 150 in _run
  File "threading.py", line 982 in run

Extension modules: msgspec._core (total: 1)
"""


def test_of_a_crash_the_place_is_shown() -> None:
    assert last_words(DUMP) == [
        "Fatal Python error: Segmentation fault",
        'File "ctypes/__init__.py", line 519 in string_at',
        'File "sim.py", line 88 in simulate',
        'File "executor.py", line 150 in _run',
    ]


def test_of_other_output_the_end_is_shown() -> None:
    assert last_words("\n".join(map(str, range(9))) + "\n") == ["4", "5", "6", "7", "8"]
    assert last_words("  \n") == []
