"""The command line: a verb is parsed by the signature of its function, which is then called.

Positional parameters are given by place, the others as `--options`, and all of them by name in a
`--config` file. Torch and jsonargparse are imported only once a verb is known.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

import empssl
from empssl import plugins
from empssl._version import __version__
from empssl.config import merge
from empssl.errors import (
    CheckpointError,
    EmpsslError,
    OutOfMemoryError,
    StoppedError,
    UsageError,
    nearest,
)
from empssl.help import EXAMPLES, OTHER, SUBJECTS, VERBS, Formatter, overview, subject
from empssl.progress import first_process, log, say, show, status
from empssl.runs.schema import check_references

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

SHARED = ("train", "doctor")  # several processes may carry them out together
FRONT = ("--help", "--version", "--json-errors", "--plugin")
LONGEST_METAVAR = 24  # characters; more choices are in the text
METAVARS = {Path: "PATH", float: "NUMBER", int: "INT", str: "TEXT"}

ArgumentValues = dict[str, Any]


def main(argv: Sequence[str] | None = None, *, begin: Callable[[], None] = lambda: None) -> int:
    """Run one command.

    Args:
        argv: the words after `empssl`; those of the process by default.
        begin: called when modules have been imported and the words are understood, before the
            verb is carried out.

    Returns:
        The exit code: 0, 2 for a command that cannot be carried out, or that of the error.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json-errors" in words
    words = [word for word in words if word != "--json-errors"]
    modules: list[str] = []
    # Where a process loses another one, torch adds a page of addresses to what is said of it.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    speaker = "empssl"  # with the verb while its words are read
    try:
        words, modules = _plugins(words)
        if not words or words[0] in ("-h", "--help"):
            _show(overview((empssl.__doc__ or "").splitlines()[0]))
        elif words[0] == "--version":
            _show(f"empssl {__version__}")
        elif words[0] not in VERBS:
            kind, choices = ("option", FRONT) if words[0].startswith("-") else ("verb", VERBS)
            raise _unknown(kind, words[0], choices)
        else:
            with status("loading torch"):
                plugins.load(modules)
                function = getattr(empssl, words[0])
                speaker = f"empssl {words[0]}"
                values, switches = parse(words[0], function, words[1:])
            speaker = "empssl"
            begin()
            if switches["print_config"]:
                result = values
            else:
                result = _carried_out(function, values, typed=argv is None)
            if _speaks(words[0]):
                _show(_shown(result, **switches))
            return int(getattr(result, "exit_code", 0))
    except EmpsslError as error:
        return _fail(speaker, error, error.exit_code, as_json)
    except SystemExit as shown:  # of a verb's help, which ends as every command does: at once
        return int(shown.code or 0)
    except KeyboardInterrupt as stop:  # with the signal's number, if it was not Ctrl-C
        code = 128 + int(stop.args[0] if stop.args else signal.SIGINT)
        return _fail(speaker, StoppedError("interrupted", code), code, as_json)
    except Exception as error:
        if (known := _of_the_machine(error)) is not None:
            return _fail(speaker, known, known.exit_code, as_json)
        log(traceback.format_exc())  # a bug: its place matters more than its message
        return _fail(speaker, error, 1, as_json)
    return 0


def _plugins(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words without each `--plugin MODULE`, and the modules.

    Raises:
        UsageError: one is not said.
    """
    end = words.index("--") if "--" in words else len(words)
    kept, named, coming = [], [], iter(words[:end])
    for word in coming:
        option, equals, value = word.partition("=")
        if option != "--plugin":
            kept.append(word)
            continue
        name = value if equals else next(coming, "")
        if not name or name.startswith("-"):
            raise UsageError("--plugin needs the name of a module, as `import` has it")
        named.append(name)
    return [*kept, *words[end:]], named


def _carried_out(function: Callable[..., Any], values: ArgumentValues, *, typed: bool) -> Any:
    """What a verb returns; `typed` where the words are those that started this process."""
    from empssl.distributed.processes import typed_command

    with typed_command() if typed else nullcontext():
        return function(**values)


def _show(text: str) -> None:
    """Print a result.

    Raises:
        CheckpointError: it was not taken.
    """
    try:
        show(text)
    except OSError as error:
        raise CheckpointError(f"the result could not be printed: {error}") from error


def _of_the_machine(error: Exception) -> EmpsslError | None:
    """A file or memory that was refused, wherever that was, as an error of ours."""
    if isinstance(error, OSError):  # its text names the file
        return CheckpointError(str(error))
    device = sys.modules.get("empssl.device")
    if isinstance(error, MemoryError) or (device and device.is_out_of_memory(error)):
        first = (str(error).strip().splitlines() or ["no memory"])[0]
        return OutOfMemoryError(f"out of memory ({first}); ask for less, or use a larger machine")
    return None


def _speaks(verb: str) -> bool:
    """Whether this process prints the result: of several that work as one, only the first does.

    Launchers' variables alone do not tell: each process of `srun empssl evaluate` works by itself.
    """
    if verb not in SHARED:
        return True
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_initialized():
        return bool(torch.distributed.get_rank() == 0)
    return first_process()


def parse(
    verb: str, function: Callable[..., Any], words: Sequence[str]
) -> tuple[ArgumentValues, ArgumentValues]:
    """The arguments of a call: the defaults, under the config files, under the options.

    Args:
        verb: its name, for the help.
        function: whose signature says which words are accepted.
        words: what follows the verb.

    Returns:
        The arguments, and the switches that concern the command line only.

    Raises:
        UsageError: a word or a key that is unknown, missing or of the wrong type.
    """
    hints = written_hints(function)
    parameters = {n: p for n, p in inspect.signature(function).parameters.items() if n in hints}
    parser = _parser(verb, function, hints)
    flags = _strictly(parser.parse_args, _spelled(words, parser, hints), hints)
    layers = [_load(path, parser, hints) for path in flags.pop("config", [])]
    flags.pop("plugin", None)  # imported before anything was parsed
    switches = {"print_config": False, "as_json": False}
    switches |= {name: flags.pop(name) for name in switches if name in flags}
    values = {name: p.default for name, p in parameters.items()}
    for layer in (*layers, flags):
        for name, value in layer.items():
            values[name] = _laid_over(values[name], value)
    missing = [n for n, value in values.items() if value is inspect.Parameter.empty]
    if switches["print_config"]:
        return _resolved({n: v for n, v in values.items() if n not in missing}), switches
    for name, value in values.items():
        if value == "" and (Path in get_args(hints[name]) or name in ("data", "test_data")):
            raise UsageError(f"{_name(parameters[name])} is empty; the current folder is '.'")
    if missing:
        needs = " and ".join(_name(parameters[n]) for n in missing)
        raise UsageError(f"needs {needs}; `empssl {verb} --help` lists what it takes")
    return values, switches


def _parser(verb: str, function: Callable[..., Any], hints: dict[str, Any]) -> ArgumentParser:
    """A parser that only knows what was said: it fills in no default, and requires nothing."""
    from docstring_parser import DocstringStyle
    from docstring_parser import parse as parse_docstring
    from jsonargparse import ActionYesNo, ArgumentParser

    docs = parse_docstring(function.__doc__ or "", DocstringStyle.GOOGLE)
    helps = {p.arg_name: (p.description or "").replace("%", "%%") for p in docs.params}
    parameters = [p for n, p in inspect.signature(function).parameters.items() if n in hints]
    required = [_name(p) for p in parameters if p.default is p.empty]
    usage = [f"{n} {n[2:].upper()}" if n.startswith("--") else n for n in required]
    optional = (p for p in parameters if p.kind is not p.KEYWORD_ONLY and p.default is not p.empty)
    usage += [f"[{_name(p)} ...]" for p in optional]
    parser = ArgumentParser(
        prog=f"empssl {verb}", usage=" ".join(["%(prog)s", *usage, "[--option value ...]"]),
        description=docs.short_description, formatter_class=Formatter, print_config=None,
        allow_abbrev=False, exit_on_error=False, add_help=False,
    )  # fmt: skip
    groups = {name: parser.add_argument_group(name) for name in ("arguments", *SUBJECTS, OTHER)}

    def group(option: str) -> Any:
        return groups[subject(verb, option)]

    for p in parameters:
        hint, placed = hints[p.name], p.kind is not p.KEYWORD_ONLY
        text, metavar = helps.get(p.name, ""), _metavar(hint)
        if placed:
            metavar = _name(p)
        elif len(metavar) > LONGEST_METAVAR:
            choices, metavar = metavar[1:-1].split(","), "NAME"
            if any(choice not in text for choice in choices):
                text += f" One of {', '.join(choices)}."
        if not any(p.default is no for no in (None, p.empty)) and p.default != ():
            text += f" (default: {_default(p.default)})"
        options: ArgumentValues = {"type": hint, "help": text.strip(), "metavar": metavar}
        within = groups["arguments"] if placed else group(p.name)
        if placed and get_origin(hint) is Sequence:
            action = within.add_argument(p.name, nargs="*", **options | {"type": get_args(hint)[0]})
        elif placed:
            action = within.add_argument(p.name, **options)
        elif hint is bool:
            action = within.add_argument(
                _name(p), action=ActionYesNo(no_prefix="no-"), help=options["help"]
            )
        elif get_origin(hint) in (list, Sequence):
            action = within.add_argument(
                _name(p), nargs="+", **options | {"type": get_args(hint)[0]}
            )
        else:
            action = within.add_argument(_name(p), **options)
        action.required = False
    result = hints.get("return")
    if any(hasattr(kind, "to_json") for kind in (result, *get_args(result))):
        group("json").add_argument(
            "--json", dest="as_json", action="store_true", help="print JSON instead of a table"
        )
    group("config").add_argument(
        "--config", action="append", type=str, metavar="FILE",
        help="YAML with values by parameter name; an option outweighs it",
    )  # fmt: skip
    group("print_config").add_argument(
        "--print-config", action="store_true", help="print all values as such a file, and stop"
    )
    group("plugin").add_argument(
        "--plugin", action="append", type=str, metavar="MODULE",
        help="import a module of your own first, which adds to the names; as often as you like",
    )  # fmt: skip
    group("help").add_argument("-h", "--help", action="help", help="show this, and stop")
    notes = [f"example:\n  {EXAMPLES[verb]}"] if verb in EXAMPLES else []
    if specs := [_name(p) for p in parameters if _is_spec(hints[p.name])]:
        notes.append(
            f"{', '.join(specs)} take a NAME and, each as an option of its own, what the name "
            f"takes: {specs[0]}.KEY VALUE."
        )
    parser.epilog = "\n\n".join(notes)
    return parser


def _spelled(words: Sequence[str], parser: ArgumentParser, hints: dict[str, Any]) -> list[str]:
    """The words as the parser spells them: `--data-dir`, and `--objective.name emp`.

    Raises:
        UsageError: an option that the parser does not know.
    """
    known = parser._option_string_actions
    spelled: list[str] = []
    for at, word in enumerate(words):
        if word == "--":
            return [*spelled, *words[at:]]
        option, equals, value = word.partition("=")
        if option.startswith("--"):
            head, dot, key = option.partition(".")
            name, key = head[2:].replace("-", "_"), key.replace("-", "_")
            head, spec = "--" + name.replace("_", "-"), _is_spec(hints.get(name))
            if head not in known or (dot and not spec):
                if name in hints and not dot:
                    raise UsageError(f"{name.upper()} is given by place, without '{option}'")
                raise _unknown("option", option, [o for o in known if o.startswith("--")])
            given = value if equals else "".join(words[at + 1 : at + 2])
            number = int in get_args(hints.get(name)) and _is_whole(given)
            if spec and not dot and not number and not given.startswith("{"):
                dot, key = ".", "name"
            word = head + dot + key + equals + value
        spelled.append(word)
    return spelled


def _load(path: str, parser: ArgumentParser, hints: dict[str, Any]) -> ArgumentValues:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path} cannot be read: {error}") from error
    try:
        check_references(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--config {path}: {' '.join(str(error).split())}") from error
    try:
        values = _strictly(parser.parse_string, _with_lists(text, hints), hints)
        for name in values.keys() - hints.keys():  # a switch of the command line itself
            raise _unknown("key", name, hints)
        return values
    except UsageError as error:
        raise UsageError(f"--config {path}: {error}") from error


def _with_lists(text: str, hints: dict[str, Any]) -> str:
    """YAML in which one value of an option that takes several is a list, as on the command line.

    Raises:
        UsageError: such an option has no value.
    """
    import yaml

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError):  # which the parser says better
        return text
    if not isinstance(root, yaml.MappingNode):
        return text
    for key, node in reversed(root.value):  # from the end on, so that marks stay right
        name, kind = key.value, str(node.tag).rpartition(":")[2]
        if get_origin(hints.get(name)) not in (list, Sequence) or kind in ("seq", "map"):
            continue
        if kind == "null":
            raise UsageError(f"--{name.replace('_', '-')} needs a value; leave it out for none")
        start, end = node.start_mark.index, node.end_mark.index
        plain = node.style is None and not set(text[start:end]) & set(",[]{}")
        value = f"[{text[start:end]}]" if plain else json.dumps([node.value.strip()])
        value += "\n" * text[start:end].endswith("\n")  # a block ends with its line
        text = text[:start] + value + text[end:]
    return text


def _strictly(
    parse_words: Callable[..., Any], words: str | Sequence[str], hints: dict[str, Any]
) -> ArgumentValues:
    """What jsonargparse makes of words or YAML; its errors as one line that names the option."""
    from argparse import ArgumentError

    try:
        return dict(parse_words(words, defaults=False).as_dict())
    except ArgumentError as error:
        text = str(error)
    if found := re.match(r"Option '(.+)' is not accepted", text):
        raise _unknown("key", found[1], hints)
    if found := re.match(r'Parser key "(\w+)"(?s:.*)(?:Given value|Got value): (.*)', text):
        name, value = found[1], found[2]
        option = name.replace("_", "-")
        raise UsageError(f"--{option} takes {_metavar(hints[name])}, not '{value}'")
    if found := re.match(r"argument (\S+): expected", text):
        raise UsageError(f"{found[1].partition('/')[0]} needs a value")
    if found := re.match(r"unrecognized arguments: (.*)", text):
        raise UsageError(f"nothing takes '{found[1]}'")
    raise UsageError(" ".join(text.split()))


def _laid_over(base: Any, value: Any) -> Any:
    """A spec keeps the options that are not given anew, as long as its name stays."""
    if isinstance(base, str) and isinstance(value, dict):
        base = {"name": base}
    if not isinstance(base, dict) or value is None:
        return value
    return merge(base, value) if "name" in base else base | value


def _resolved(values: ArgumentValues) -> ArgumentValues:
    """The values with all that a recipe decides."""
    if "recipe" not in values:
        return values
    from empssl.training.recipes import DEFAULT, load, resolve

    decided = load(values["recipe"] or DEFAULT)
    settings = resolve(values["recipe"], {name: values.get(name) for name in decided})
    return values | {name: value for name, value in settings.items() if name in values}


def _shown(result: Any, *, print_config: bool, as_json: bool) -> str:
    """A result as a person, or a program, reads it."""
    if print_config:
        import yaml

        plain = json.loads(json.dumps(result, default=str))  # paths as text, tuples as lists
        text: str = yaml.safe_dump(plain, sort_keys=False)
        return text.rstrip("\n")
    if not hasattr(result, "to_json"):
        return str(result)
    return str(result.to_json() if as_json else result.table())


def _fail(speaker: str, error: BaseException, code: int, as_json: bool) -> int:
    message = " ".join(str(error).splitlines())
    if getattr(error, "reported", False):
        return code
    if as_json:
        line = {"error": type(error).__name__, "exit_code": code, "message": message}
        log(json.dumps(line))
    elif isinstance(error, EmpsslError):
        say(message, speaker)
    return code


def _unknown(kind: str, word: str, choices: Sequence[str] | dict[str, Any]) -> UsageError:
    hint = nearest(word, choices)
    return UsageError(f"no {kind} '{word}', {hint[0].lower()}{hint[1:]}")


def _name(parameter: inspect.Parameter) -> str:
    """What the help calls it: `DATA`, `--data-dir`."""
    if parameter.kind is not parameter.KEYWORD_ONLY:
        return parameter.name.upper()
    return "--" + parameter.name.replace("_", "-")


def _metavar(hint: Any) -> str:
    """What an option takes, in a word."""
    kinds = get_args(hint) or (hint,)
    if get_origin(hint) is Literal:
        return "{" + ",".join(kinds) + "}"
    if get_origin(hint) in (list, Sequence):
        return _metavar(kinds[0])
    if _is_spec(hint):
        return "NAME"
    return next((text for kind, text in METAVARS.items() if kind in kinds), "VALUE")


def written_hints(function: Callable[..., Any]) -> dict[str, Any]:
    """What words can say of each parameter, and what is returned.

    A parameter that takes objects alone, such as a module, is for programs, and left out.
    """
    hints = {name: _written(hint) for name, hint in get_type_hints(function).items()}
    return {n: hint for n, hint in hints.items() if n == "return" or hint is not type(None)}


def _written(hint: Any) -> Any:
    """Of what a parameter takes, what words can say; objects are for programs."""
    if get_origin(hint) not in (Union, UnionType):
        return hint
    kept = tuple(kind for kind in get_args(hint) if _is_written(kind))
    return Union[kept] if kept else hint  # noqa: UP007 (made of a tuple)


def _is_written(hint: Any) -> bool:
    if get_origin(hint) in (list, tuple, Sequence):
        return all(map(_is_written, get_args(hint)))
    return hint in (*METAVARS, bool, type(None)) or get_origin(hint) in (dict, Mapping, Literal)


def _is_spec(hint: Any) -> bool:
    return any(get_origin(kind) is dict for kind in get_args(hint))


def _is_whole(text: str) -> bool:
    """Whether a word is a whole number, where a spec may be one instead.

    >>> [_is_whole(text) for text in ("64", "-8", "2.5", "plain")]
    [True, True, False, False]
    """
    return text.lstrip("-").isdecimal()


def _default(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
