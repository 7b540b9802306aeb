"""Options: what a command may be given, derived from settings and registries.

A command that takes `**words` gets an option for every setting it is registered with; what it is
called with is given to `Settings.of`.
"""

from __future__ import annotations

import copy
import inspect
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import annotated_types
import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from lookup_tables.storage.files import first_fault
from pruner import RunError, models
from pruner.cli.progress import console
from pruner.data import DATA_SETS, IMAGE_SIZE, load_data
from pruner.data.images import Data
from pruner.data.memory import NORMALISATIONS
from pruner.run.settings import CHOICES, Settings, Shown
from pruner.train.tasks import TASKS
from pruner.train.tasks.base import VisionTask

ModelOption = Annotated[
    str, typer.Option("--model", help=f"{', '.join(models.MODELS)}, or file.py:factory.")
]
DataOption = Annotated[
    str, typer.Option("--data", help=f"{', '.join(DATA_SETS)}, or file.py:function.")
]
DataDirOption = Annotated[Path | None, typer.Option("--data-dir", help="Where the data set is.")]
NormalisationOption = Annotated[
    str,
    typer.Option(
        help="For cifar10: the means and deviations that normalise its images, "
        f"{' or '.join(NORMALISATIONS)}. Use those of the weights' training."
    ),
]
ImageSizeOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="For pictures with boxes: pixels of the square that images are resized to. "
        f"Usually {IMAGE_SIZE}.",
    ),
]
SpeedupsOption = Annotated[
    list[float] | None,
    typer.Option(
        "--speedup", help="Latency budget as a speedup over the dense network. Repeatable."
    ),
]
LatenciesOption = Annotated[
    list[float] | None,
    typer.Option("--latency-ms", help="Latency budget in milliseconds. Repeatable."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON to standard output.")]


def read_data(data: str, folder: Path | None, normalisation: str, image_size: int | None) -> Data:
    """The data set that options name; what reading it left out is told."""
    found = load_data(data, folder, normalisation=normalisation, image_size=image_size)
    for note in found.notes:
        console.print(f"{data}: {note}", highlight=False, soft_wrap=True)
    return found


OTHER = Shown("Other")  # of a setting that does not say where it belongs


def with_settings(
    command: Callable[..., None], parameters: Iterator[inspect.Parameter]
) -> Callable[..., None]:
    """The command with options for its `**words`: typer reads them from its signature."""
    signature = inspect.signature(command, eval_str=True)
    own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    required = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
    listed = [*required, *parameters]

    def run(**words: Any) -> None:
        command(**words)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = inspect.Signature(listed)  # type: ignore[attr-defined] # typer reads it
    run.__annotations__ = {p.name: p.annotation for p in listed}
    return run


def task_by(name: str, words: Mapping[str, Any]) -> VisionTask:
    """The task of that name, with what the user set of it.

    Raises RunError for a setting that it does not have, or a wrong one.
    """
    entry = TASKS.choose(name, RunError)
    given = {setting: value for setting, value in words.items() if value is not None}
    for setting in given:
        if setting not in entry.settings.model_fields:
            option = setting.replace("_", "-")
            raise RunError(f"--{option} has no effect with --task {name}; leave it out")
    try:
        return entry.make(entry.settings(**given))
    except ValidationError as error:
        raise RunError(f"--{first_fault(error)}") from None


def plain(words: dict[str, Any]) -> dict[str, Any]:
    """Options as settings have them: paths as text, lists as tuples."""
    found = dict(words)
    for name, value in words.items():
        if isinstance(value, Path):
            found[name] = str(value)
        elif isinstance(value, list):
            found[name] = tuple(value)
    several = [name for name in ("keep_width", "keep_layer") if name in words]
    return found | {name: found[name] or () for name in several}


def require_budget(speedup: list[float] | None, latency_ms: list[float] | None) -> None:
    """Raise RunError where neither was given."""
    if not speedup and not latency_ms:
        raise RunError("give at least one budget: --speedup or --latency-ms")


def common(left_out: Collection[str] = (), **usually: Any) -> Iterator[inspect.Parameter]:
    """An option for every setting that all runs have; `usually`: defaults of this command alone."""
    for name, field in Settings.model_fields.items():
        if name in left_out or name.endswith("_settings"):
            continue
        shown = next((part for part in field.metadata if isinstance(part, Shown)), OTHER)
        text = field.description or ""
        if name in CHOICES:
            text = f"{text.removesuffix('.')}: {'; '.join(_entries(name))}."
        default = field.default if not field.is_required() else inspect.Parameter.empty
        default = usually.get(name, default)
        yield _parameter(name, field, default, text, shown)


def changes(names: Collection[str]) -> Iterator[inspect.Parameter]:
    """An option for each of these settings, to change what a run was begun with."""
    for parameter in common():
        if parameter.name in names:
            kind, option = parameter.annotation.__origin__, parameter.annotation.__metadata__[0]
            option = copy.copy(option)
            option.show_default = False
            yield parameter.replace(default=None, annotation=Annotated[kind | None, option])


def own(choices: Collection[str]) -> Iterator[inspect.Parameter]:
    """An option for every setting that an entry of these registries has of its own."""
    seen: dict[str, tuple[FieldInfo, list[str]]] = {}
    for choice in choices:
        for entry in CHOICES[choice].values():
            for name, field in entry.settings.model_fields.items():
                owner = f"--{choice} {entry.name}"
                seen.setdefault(name, (field, []))[1].append(owner)
    for name, (field, owned) in seen.items():
        chosen_by = {owner.partition(" ")[0] for owner in owned}
        if len(chosen_by) > 1:
            raise ValueError(f"{name} is a setting of {' and '.join(sorted(owned))}; rename one")
        text = f"For {' and '.join(owned)}: {field.description or name}"
        if typing.get_origin(field.annotation) is Literal:
            text += f" One of {', '.join(typing.get_args(field.annotation))}."
        if isinstance(field.default, bool):
            text += f" Usually {'yes' if field.default else 'no'}."
        elif not field.is_required():
            text += f" Usually {field.default}."
        # None: not given. What it then is, its entry says.
        (choice,) = chosen_by
        panel = f"For one {choice.removeprefix('--')} only"
        yield _parameter(name, field, None, text, Shown(panel))


def _entries(choice: str) -> Iterator[str]:
    for entry in CHOICES[choice].values():
        yield f"{entry.name} ({entry.summary})"


def _parameter(
    name: str, field: FieldInfo, default: Any, text: str, shown: Shown
) -> inspect.Parameter:
    kind = _option_type(field.annotation, shown)
    least: float | None = None
    most: float | None = None
    for part in field.metadata:
        if isinstance(part, annotated_types.Ge):
            assert isinstance(part.ge, int | float)
            least = part.ge
        elif isinstance(part, annotated_types.Le):
            assert isinstance(part.le, int | float)
            most = part.le
    option = typer.Option(
        *([f"--{name.replace('_', '-')}", *shown.names] if shown.names else []),
        help=text,
        rich_help_panel=shown.panel,
        show_default=default is not None and default != (),
        min=least,
        max=most,
    )
    if default is None or default == ():
        kind, default = kind | None, None
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option]
    )


def _option_type(annotation: Any, shown: Shown) -> Any:
    """The type that typer knows of a setting's."""
    if typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    if isinstance(annotation, types.UnionType):  # with None
        (annotation,) = (part for part in typing.get_args(annotation) if part is not type(None))
    if shown.is_path:
        return Path
    if typing.get_origin(annotation) is tuple:
        return list[str]
    if typing.get_origin(annotation) is Literal:
        return str  # its entry says which there are, if another one is given
    return annotation
