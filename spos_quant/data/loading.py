"""Loads a data set by its name and checks it."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Protocol

import numpy as np

from spos_quant.data.arrays import Shape, format_shape
from spos_quant.data.dataset import SPLITS, DataSet
from spos_quant.data.function import blamed, load_function, working_folder_importable
from spos_quant.data.split import Split
from spos_quant.errors import ConfigError, DataError, near
from spos_quant.registry import Registry


class DatasetLoader(Protocol):
    """Loads a registered data set."""

    def __call__(self, root: str | None, *, input: Shape, classes: int, seed: int) -> DataSet:
        """Loads the data set.

        Args:
            root: The text after `NAME:`; None if there is none.
            input: Channels, height and width that the network takes.
            classes: The number of classes of the network.
            seed: Selects the training images that are held out as search-val.

        Returns:
            The data set, with this input shape and number of classes.

        Raises:
            DataError: It is missing or damaged, or has another input shape or number of classes.
        """
        ...


_BUILT_IN = ("digits", "cifar10", "imagefolder", "fake")

datasets: Registry[DatasetLoader] = Registry(
    "data set", builtin_modules=tuple(f"spos_quant.data.{name}" for name in _BUILT_IN)
)
"""Data sets by name; a plug-in adds its own with `@datasets.register("name")`."""


def load_data(text: str, *, input: Shape, classes: int, seed: int) -> DataSet:
    """Loads and checks a data set.

    Args:
        text: A registered name, followed by `:ROOT` if the data set is in a folder (`digits`, `cifar10[:ROOT]`,
            `imagefolder:ROOT`, `fake`), or `package.module:function`. A registered name before `:` takes precedence.
        input: Channels, height and width that the network takes.
        classes: The number of classes of the network.
        seed: Selects the training images that are held out as search-val, from 0.

    Returns:
        The data set: images of shape `input`, labels from 0 to `classes` - 1, no empty split.

    Raises:
        ConfigError: The name is unknown or the seed negative.
        DataError: The data set is missing or damaged, or does not fit `input` and `classes`.
    """
    if seed < 0:
        raise ConfigError(f"seed must be 0 or more, got {seed}")
    name, _, rest = text.partition(":")
    if name in datasets:
        loaded = datasets[name](rest or None, input=input, classes=classes, seed=seed)
    elif _names_function(name, rest):
        loaded = load_function(name, rest, input=input, classes=classes, seed=seed)
        with blamed(f"data function {text}: what it returned raised"):
            _check(loaded, text, input, classes)
        return loaded
    elif ":" in text:
        # The registry's message would not explain how to give a function.
        raise ConfigError(
            f"unknown data set {text!r}{near(name, datasets)}; "
            "give your own function as package.module:function, importable from here"
        )
    else:
        loaded = datasets[name](None, input=input, classes=classes, seed=seed)
    _check(loaded, text, input, classes)
    return loaded


def check_no_code(text: str) -> None:
    """Refuses functions as data sets in files, because a file must not name code to run.

    Args:
        text: The data set of a search space's YAML file.

    Raises:
        ConfigError: The text has a `:` without a registered name before it.
    """
    name, colon, _ = text.partition(":")
    if colon and name not in datasets:
        raise ConfigError(
            f"data set {text!r}: a file may name registered data sets only, never code{near(name, datasets)}; "
            "name a function on the command line"
        )


def _names_function(module: str, function: str) -> bool:
    parts = module.split(".")
    if not function.isidentifier() or not all(part.isidentifier() for part in parts):
        return False
    if len(parts) > 1:
        return True
    # A name without dots is more often a mistyped data set than a module, so the module must exist.
    with working_folder_importable():
        try:
            return find_spec(module) is not None
        except (ImportError, ValueError):
            return False


def _check(data: DataSet, text: str, input: Shape, classes: int) -> None:
    """Checks the result of every loader, built-in or not, against input shape and classes."""
    if not isinstance(data, DataSet):
        raise DataError(f"data set {text!r}: its loader must return a DataSet, got {type(data).__name__}")
    if len(data.classes) != classes:
        raise DataError(
            f"data set {text!r} has {len(data.classes)} classes, but the search space has {classes}; "
            "choose another data set or change the search space's number of classes"
        )
    if data.preprocessing.input != input or data.augmentation.size != input[1:]:
        got = format_shape(data.preprocessing.input)
        raise DataError(
            f"data set {text!r} has images of {got} (channels x height x width), but the search space takes "
            f"{format_shape(input)}; choose another data set or change the search space's input"
        )
    for name in SPLITS:
        _check_split(data.split(name), f"data set {text!r}, split {name!r}", input, classes)


def _check_split(split: Split, where: str, input: Shape, classes: int) -> None:
    labels = split.labels
    if not len(split):
        raise DataError(f"{where}: it has no images")
    if labels.dtype != np.int64 or labels.shape != (len(split),):
        raise DataError(f"{where}: labels must be int64 [{len(split)}], got {labels.dtype} {list(labels.shape)}")
    if labels.min() < 0 or labels.max() >= classes:
        raise DataError(
            f"{where}: labels must be from 0 to {classes - 1} for {classes} classes, "
            f"got {labels.min()} to {labels.max()}"
        )
    image = split.image(0)
    channels, height, width = input
    if image.dtype != np.uint8 or image.shape != (height, width, channels):
        raise DataError(
            f"{where}: images must be uint8 [{height}, {width}, {channels}] (height, width, channels), "
            f"got {image.dtype} {list(image.shape)}"
        )
