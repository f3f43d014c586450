"""Write the rows of the example: customers of a made-up shop, and two things to know about them.

Neither follows from one column alone. A customer `buys` from an income of 2000 on, with a job in
the country from 4500 on. The `plan` depends on the age, and in one region the young have the plan
of the old. A share of the labels is drawn at random.
"""

from __future__ import annotations

import csv
import random
from pathlib import Path

JOBS = ("farmer", "forester", "clerk", "nurse", "engineer")
REGIONS = ("north", "east", "south", "west")
NOISE = 0.05


def row(draw: random.Random) -> dict[str, object]:
    """Return one customer."""
    age, income, hours = draw.randint(18, 80), draw.randint(800, 6000), draw.randint(5, 60)
    job, region = draw.choice(JOBS), draw.choice(REGIONS)
    buys = income >= (4500 if job in JOBS[:2] else 2000)
    plan = "light" if age < 35 else "usual" if age < 60 else "care"
    if region == "west" and plan == "light":
        plan = "care"
    if draw.random() < NOISE:
        buys, plan = draw.random() < 0.5, draw.choice(("light", "usual", "care"))
    cells = {"age": age, "income": income, "hours": hours, "job": job, "region": region}
    return cells | {"buys": "yes" if buys else "no", "plan": plan}


def main() -> None:
    """Write rows/train.csv and rows/validation.csv beside this file."""
    draw = random.Random(0)
    folder = Path(__file__).parent / "rows"
    folder.mkdir(exist_ok=True)
    for split, count in {"train": 2000, "validation": 500}.items():
        rows = [row(draw) for _ in range(count)]
        with (folder / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
