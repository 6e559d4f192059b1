"""What a process with many threads does not load, in processes of their own."""

from __future__ import annotations

import subprocess
import sys


def said_by(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.strip()


def test_docker_is_loaded_without_tables_of_characters_and_says_nothing_of_it() -> None:
    code = (
        "import sys; from runtime.machine.lean_memory import load_docker; load_docker(); load_docker()\n"
        "print('docker' in sys.modules, any(name.startswith('charset_normalizer') for name in sys.modules))\n"
        "import charset_normalizer; print(charset_normalizer.from_bytes('hier'.encode()).best())"
    )

    assert said_by(code) == "True False\nhier"


def test_text_of_the_engine_without_a_charset_is_utf_8() -> None:
    code = (
        "from runtime.machine.lean_memory import load_docker; load_docker()\n"
        "import requests; answer = requests.Response(); answer._content = 'für'.encode(); print(answer.text)"
    )

    assert said_by(code) == "für"


def test_the_threads_of_the_edge_share_one_arena() -> None:
    code = (
        "import ctypes, threading\n"
        "from runtime.machine.lean_memory import share_one_arena; share_one_arena()\n"
        "libc = ctypes.CDLL(None); libc.malloc.restype = ctypes.c_void_p\n"
        "places = [libc.malloc(4096)]\n"
        "thread = threading.Thread(target=lambda: places.append(libc.malloc(4096)))\n"
        "thread.start(); thread.join()\n"
        "heap = next(line for line in open('/proc/self/maps') if '[heap]' in line).split()[0].split('-')\n"
        "first, last = (int(part, 16) for part in heap)\n"
        "print([first <= place < last for place in places])"
    )

    assert said_by(code) == "[True, True]"
