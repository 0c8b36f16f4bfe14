"""A nemesis: hosts, disks and clocks of a whole site fail while blocks are written and verified.

Hosts are network namespaces around a switch: three with a replica, two for targets, one with the
initiators.  One fault comes after the other, in rounds in which each kind comes once, and after
each the volume has to be whole again.  Writes carry stamps; each block is read before it is written
again, and all are read in the end, so every write that was acknowledged is verified once.

| modules | what they do |
|---|---|
| `plan` | which fault comes when, from a seed |
| `history`, `gaps` | what the journals say: what was lost or wrong, and how long nothing went |
| `paths`, `disk`, `workload` | initiators with a path to each target |
| `site`, `switch`, `clocks`, `delays` | the hosts, and what can be done to them |
| `faults`, `run`, `report` | doing it, and what came of it |

`python -m tests.nemesis` is the long run; `tests/system/test_nemesis.py` a short one.
"""
