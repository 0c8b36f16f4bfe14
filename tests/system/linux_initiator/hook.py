"""What the guest's `host WORD...` command reaches: a function of the test, run on this host.

That is how a script in the guest kills, stops or restarts its target in the middle of its I/O.
The words come one a line behind a secret token, a line with the byte 4 ends them, and the answer
is what the function said followed by a line with its status.
"""

from __future__ import annotations

import contextlib
import secrets
import socketserver
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.system.tools import HarnessError

END_OF_WORDS = b"\004\n"
WORDS_MAX = 64
WORD_BYTES_MAX = 4096

Hook = Callable[[list[str]], tuple[int, str]]
"""Takes the words and returns a status, 0 to 255, and a text for the guest."""


def refuse(words: list[str]) -> tuple[int, str]:
    """The hook of a run that has none."""
    return 125, f"no hook was given for {words}"


@dataclass(frozen=True, slots=True)
class HookAddress:
    """Where the guest finds the hook, and the secret that it shows."""

    port: int
    token: str


@contextlib.contextmanager
def hook_server(hook: Hook) -> Iterator[HookAddress]:
    """Answer the guest's requests, one thread each, while the block lasts."""
    token = secrets.token_hex(16)

    class Handler(socketserver.StreamRequestHandler):
        """One `host` command."""

        def handle(self) -> None:
            words: list[str] = []
            while (line := self.rfile.readline(WORD_BYTES_MAX)) != END_OF_WORDS:
                if not line or len(words) == WORDS_MAX:
                    return
                words.append(line.decode(errors="replace").rstrip("\n"))
            if words and secrets.compare_digest(words[0].encode(), token.encode()):
                self.wfile.write(_answer(hook, words[1:]))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield HookAddress(server.server_address[1], token)
        finally:
            server.shutdown()
            thread.join()


def _answer(hook: Hook, words: list[str]) -> bytes:
    try:
        status, text = hook(words)
    except (HarnessError, OSError) as error:
        # The guest's script is told and decides what its test makes of it.
        status, text = 125, f"the hook failed: {error}"
    if text and not text.endswith("\n"):
        text += "\n"
    return f"{text}{status & 255}\n".encode()
