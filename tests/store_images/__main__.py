"""Opens as many images as one likes: `python -m tests.store_images [IMAGES [FIRST_SEED]]`.

Exit code 1 where one broke the contract; the seed that is printed brings it back.
"""

from __future__ import annotations

import asyncio
import sys
import time

from tests.store_images.test_images import IMAGES_LONG, images


def main() -> int:
    at_least = int(sys.argv[1]) if len(sys.argv) > 1 else IMAGES_LONG
    first_seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    begun = time.monotonic()
    seeds = range(first_seed, first_seed + at_least)
    findings = asyncio.run(images(seeds, at_least))
    for kind, number in sorted(findings.images.items()):
        print(f"{number:8}  {kind}")
    print(f"{findings.after:8}  openings cut short")
    total, duration_s = findings.total + findings.after, time.monotonic() - begun
    print(f"{total:8}  in {duration_s:.0f} s, {len(findings.broken)} broken")
    print("\n".join(findings.broken))
    return 1 if findings.broken else 0


if __name__ == "__main__":
    sys.exit(main())
