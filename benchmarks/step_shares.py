"""What a training step costs, and which part of it costs what: `empssl bench`, kept as a claim.

python benchmarks/step_shares.py [--recipe laptop] [--steps 60] [--slow] [--write]
"""

import argparse

from claim import claim

import empssl


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="laptop")
    parser.add_argument("--patches", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--slow", action="store_true", help="also measure the slow pipeline")
    parser.add_argument("--name", help="of the claim; step-RECIPE by default")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    found = empssl.bench(
        recipe=args.recipe, patches=args.patches, batch=args.batch, steps=args.steps,
        slow=args.slow, precision=args.precision,
    )  # fmt: skip
    print(found.table(), flush=True)
    values = {c.what: round(c.value, 4) for c in found.claims}
    parts = ("views", "objective", "optimizer", "transfer")
    per_step = found.conditions["patches"] * found.conditions["batch"]
    claim(
        args.name or f"step-{args.recipe}", [per_step / t for t in found.seconds["whole"]],
        "patches/s", write=args.write,
        patches=found.conditions["patches"], batch=found.conditions["batch"],
        precision=found.conditions["precision"], view_side=found.conditions["view_side"],
        milliseconds={part: values[part] for part in parts},
        share={part: values[f"{part}_over_step"] for part in parts},
        bare_over_whole=values["bare_over_step"],
        microseconds_per_patch_of_views=values["views_per_patch"], measured=values,
    )  # fmt: skip


if __name__ == "__main__":
    main()
