"""What `--help` says besides the docstrings: the verbs, their options by subject, an example each.

The standard library is enough here, so that help is there at once.
"""

from argparse import Action, HelpFormatter
from textwrap import fill, wrap
from typing import Any

VERBS = {
    "train": "learn an encoder from images without labels",
    "embed": "write an embedding of every image to a Parquet, CSV or NumPy file",
    "evaluate": "score a run's encoder on labeled images",
    "examine": "measure how healthy a run's embeddings are, without labels",
    "compare": "put runs, or a grid of objectives, in one table with plots",
    "reproduce": "make a table or figure of the paper, theirs beside ours",
    "report": "write one HTML file that shows a run",
    "bench": "measure what a training step costs on this machine",
    "doctor": "say what this machine has, and what will be slow on it",
}

EXAMPLES = {
    "train": "empssl train photos --out runs/photos --budget 10m",
    "embed": "empssl embed runs/photos photos --out photos.parquet",
    "evaluate": "empssl evaluate runs/digits digits --probes linear knn",
    "examine": "empssl examine runs/photos --images 500",
    "compare": "empssl compare runs/a runs/b --data digits --out runs/both",
    "reproduce": "empssl reproduce table1 --scale laptop --out runs/paper --dry-run",
    "report": "empssl report runs/photos",
    "bench": "empssl bench --recipe laptop --steps 10",
    "doctor": "empssl doctor --out runs",
}

# In the order of the help. What a verb takes by place stands before them. Where a name is an
# option of another subject in one verb than in the others, that verb stands before it.
SUBJECTS = {
    "images": (
        "data", "test_data", "data_dir", "download", "split", "image_side", "range", "max_pixels",
        "images",
    ),
    "length": ("epochs", "budget", "steps", "slow_steps"),
    "method": (
        "recipe", "scale", "patches", "batch", "views", "objective", "objectives", "backbone",
        "projector", "whitened", "optimizer", "schedule", "set", "equal", "seed", "seeds",
    ),
    "measurement": (
        "layer", "layers", "crops", "examine.views", "probes", "train_size", "few_shot", "curve",
        "breakdown", "baselines", "near_copies", "epoch", "random", "slow", "distributed",
    ),
    "hardware": (
        "device", "threads", "devices", "num_nodes", "precision", "compile", "memory", "shard",
        "patience",
    ),
    "output": ("out", "resume", "overwrite", "keep_epochs"),
    "command line": ("list", "dry_run", "json", "config", "print_config", "plugin", "help"),
}  # fmt: skip
OTHER = "other"  # the heading of options without a subject, of which the verbs have none


def subject(verb: str, option: str) -> str:
    """Under which heading an option stands.

    >>> subject("train", "budget"), subject("train", "views"), subject("examine", "views")
    ('length', 'method', 'measurement')
    """
    for name in (f"{verb}.{option}", option):
        for heading, options in SUBJECTS.items():
            if name in options:
                return heading
    return OTHER


class Formatter(HelpFormatter):
    """Argparse's own, but for short names of what may be repeated, and lines that stay lines."""

    def _format_args(self, action: Action, default_metavar: Any) -> str:
        if action.nargs == "+":
            return f"{action.metavar or default_metavar} ..."
        return super()._format_args(action, default_metavar)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return wrap(text, width, break_on_hyphens=False)  # names of options and modes stay whole

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(
            line if line.startswith("  ") else fill(line, width, break_on_hyphens=False)
            for line in text.split("\n")
        )


def overview(about: str) -> str:
    """The help of the whole command.

    Args:
        about: the program, in a sentence.
    """
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {name:{width}}  {does}" for name, does in VERBS.items())
    return f"""usage: empssl VERB ... [--option value ...]

{about}

{verbs}

example:
  {EXAMPLES["train"]}

`empssl VERB --help` lists what a verb takes. Elsewhere:
  --version      print the version
  --json-errors  end the error stream with a line of JSON where something goes
                 wrong
  --plugin       import a module of your own first, which adds objectives,
                 backbones, probes or data sets"""
