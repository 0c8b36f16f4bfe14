"""The process of an initiator's host: it writes stamped blocks and keeps the journal.

Each of its workers takes a block, reads it if it was written before, writes it, and goes on.  It is
told what to do by lines on standard input and answers each with a line of JSON:

| line | what it does |
|---|---|
| `rest` | end what is under way and write no more |
| `read` | read every block that was ever written, by the path that is used then |
| `end` | read nothing more, and end |
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path
from random import Random
from typing import Any, TextIO

from tests.nemesis.disk import PathsDisk
from tests.nemesis.history import NO_WRITE, ZEROS, Record, Verb
from tests.nemesis.paths import RefusedError
from tests.system import stamps
from tests.system.stamps import Ledger, Stamp

NAME = "iqn.2016-09.com.openebs.cstor.tests:nemesis-"
READ_DEPTH = 8


class Workload:
    """One initiator, on a range of blocks of its own."""

    def __init__(self, options: argparse.Namespace, journal: TextIO, log: TextIO) -> None:
        self._first = options.number * options.blocks
        self._depth = options.depth
        self._rest_s = options.rest_ms / 1000
        self._number = options.number
        self._ledger = Ledger(options.blocks, Random(options.seed))
        self._ledger.cycle = options.number
        self._journal = journal
        self._log = log
        self._writing = True
        self.problems: list[str] = []
        portals = [(host, options.port) for host in options.portal]
        self._disk = PathsDisk(
            portals, options.target, f"{NAME}{options.number}", self._note, self._wrong
        )

    async def write(self) -> None:
        """Keep all workers at it until they are to rest."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._depth):
                group.create_task(self._work())

    def rest(self) -> None:
        """Begin nothing new."""
        self._writing = False

    async def read_all(self) -> dict[str, Any]:
        """Read every block that was ever written."""
        waiting = self._ledger.written()
        count = len(waiting)

        async def work() -> None:
            while waiting:
                await self._read(waiting.pop())

        async with asyncio.TaskGroup() as group:
            for _ in range(READ_DEPTH):
                group.create_task(work())
        return {"blocks": count, "portal": self._disk.portal, "problems": self.problems}

    def close(self) -> None:
        """Nothing more is asked."""
        self._disk.close()

    async def _work(self) -> None:
        while self._writing:
            stamp = self._ledger.next()
            if self._ledger.acknowledged(stamp.block):
                await self._read(stamp.block)
            asked_s = time.monotonic()
            try:
                await self._disk.write(self._first + stamp.block, stamp.data())
            except RefusedError as error:
                self._wrong(f"block {stamp.block} could not be written: {error}")
                self._ledger.give_up(stamp)
                self._keep(Verb.OPEN, asked_s, stamp.block, stamp.number)
            else:
                self._ledger.acknowledge(stamp)
                self._keep(Verb.WRITE, asked_s, stamp.block, stamp.number)
            await asyncio.sleep(self._rest_s)

    async def _read(self, block: int) -> None:
        asked_s = time.monotonic()
        try:
            data = await self._disk.read(self._first + block)
        except RefusedError as error:
            self._wrong(f"block {block} could not be read: {error}")
            return
        stamp = Stamp.parse(data)
        if stamp is not None and (stamp.cycle, stamp.block) == (self._number, block):
            number = stamp.number
        else:
            number = ZEROS if data == stamps.ZEROS else NO_WRITE
        self._keep(Verb.READ, asked_s, block, number)
        if (problem := self._ledger.problem(block, data)) is not None:
            self._wrong(problem)

    def _keep(self, verb: Verb, asked_s: float, block: int, number: int) -> None:
        portal = self._disk.portal
        self._journal.write(Record(verb, asked_s, time.monotonic(), block, number, portal).line())

    def _note(self, what: str) -> None:
        self._log.write(f"{time.monotonic():.3f} {what}\n")
        self._log.flush()

    def _wrong(self, problem: str) -> None:
        self.problems.append(problem)
        self._note(f"PROBLEM {problem}")


async def live(options: argparse.Namespace) -> None:
    """From the first write to the word `end`."""
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    with options.journal.open("w") as journal, options.log.open("w") as log:
        workload = Workload(options, journal, log)
        writing = asyncio.create_task(workload.write())
        while (line := (await lines.readline()).strip()) not in {b"", b"end"}:
            answer: dict[str, Any] = {"problems": workload.problems}
            if line == b"rest":
                workload.rest()
                await writing
            elif line == b"read":
                answer = await workload.read_all()
            journal.flush()
            print(json.dumps(answer), flush=True)
        writing.cancel()
        workload.close()


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write stamped blocks over several paths.")
    parser.add_argument("--portal", action="append", required=True, help="the host of a target")
    parser.add_argument("--port", type=int, default=3260)
    parser.add_argument("--target", required=True, help="the target's IQN")
    parser.add_argument("--number", type=int, required=True, help="which initiator it is, from 0")
    parser.add_argument("--blocks", type=int, required=True, help="how many blocks are its own")
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--rest-ms", type=float, default=8.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--log", type=Path, required=True)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    asyncio.run(live(parse(sys.argv[1:])))
