"""Data sets from a user's function, given on the command line as `package.module:function`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module, invalidate_caches
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spos_quant.data.arrays import Shape
from spos_quant.data.augmentation import Augmentation
from spos_quant.data.dataset import DataSet
from spos_quant.data.preprocessing import Preprocessing
from spos_quant.data.split import ArraySplit
from spos_quant.errors import ConfigError, DataError, SposQuantError, near

_KEYS = ("train", "test", "search-val", "classes", "mean", "std", "flip", "pad")
_IMAGES_PER_CHUNK = 1024
_EXPECTED = (
    "a DataSet, or a mapping with 'train' and 'test', each a pair of images (uint8 [N, height, width, channels] "
    "or [N, height, width]) and labels (whole numbers [N])"
)


@contextmanager
def working_folder_importable() -> Iterator[None]:
    """Appends the working folder to the import path, so that installed modules take precedence."""
    here = str(Path.cwd())
    invalidate_caches()
    if here in sys.path or "" in sys.path:
        yield
        return
    sys.path.append(here)
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)


def load_function(module: str, function: str, *, input: Shape, classes: int, seed: int) -> DataSet:
    """Calls `module.function()` and makes a data set of what it returns.

    Args:
        module: A module's dotted name; the working folder is searched last.
        function: The function's name in it; it is called without arguments.
        input: Channels, height and width that the network takes.
        classes: The number of classes of the network.
        seed: Selects the training images that are held out if the function returns no `search-val`.

    Returns:
        The data set that the function returned, or one made from its mapping.

    Raises:
        DataError: The module or function is missing, it raised, or it returned something unexpected.
    """
    where = f"data function {module}:{function}"
    with working_folder_importable():
        found = _find(module, function, where)
        with blamed(f"{where}: it raised"):
            result = found()
    if isinstance(result, DataSet):
        return result
    with blamed(f"{where}: what it returned raised"):
        if not isinstance(result, Mapping):
            raise DataError(f"{where}: it must return {_EXPECTED}; got {_describe(result)}")
        try:
            return _from_mapping(result, f"{module}:{function}", input, classes, seed)
        except (DataError, ConfigError) as error:
            raise DataError(f"{where}: {error}") from error


@contextmanager
def blamed(what: str) -> Iterator[None]:
    """Converts exceptions of the user's code, including `SystemExit`, to a `DataError` that begins with `what`."""
    try:
        yield
    except (SposQuantError, KeyboardInterrupt):
        raise
    except BaseException as error:
        try:
            text = f"{type(error).__name__}: {error}"
        except Exception:  # noqa: BLE001 - the exception's __str__ raises
            text = type(error).__name__
        raise DataError(f"{what} {text.removesuffix(': ')}; mend the function") from error


def _find(module: str, function: str, where: str) -> Callable[[], object]:
    with blamed(f"{where}: cannot import {module}:"):
        found = import_module(module)
    with blamed(f"{where}: {module} raised"):
        if not hasattr(found, function):
            known = [name for name, value in vars(found).items() if callable(value) and not name.startswith("_")]
            raise DataError(f"{where}: {module} has no {function!r}{near(function, known)}")
        value: object = getattr(found, function)
        if not callable(value):
            raise DataError(f"{where}: {function!r} must be a function without arguments, got {_describe(value)}")
    return value


def _from_mapping(values: Mapping[object, object], name: str, input: Shape, classes: int, seed: int) -> DataSet:
    for key in values:
        if key not in _KEYS:
            raise DataError(f"unknown key {key!r}{near(key, _KEYS)}; expected {_EXPECTED}")
    if missing := [key for key in ("train", "test") if key not in values]:
        raise DataError(f"the mapping lacks {' and '.join(map(repr, missing))}; expected {_EXPECTED}")
    parts = {key: _part(values[key], key, input) for key in ("train", "test", "search-val") if key in values}
    train, test = parts["train"], parts["test"]
    names = _class_names(values.get("classes"), classes)
    preprocessing = _preprocessing(values, train, input)
    augmentation = Augmentation(size=input[1:], pad=_pad(values.get("pad", 0)), flip=_flip(values.get("flip", False)))
    if "search-val" in parts:
        return DataSet(name, names, preprocessing, augmentation, train, parts["search-val"], test)
    return DataSet.holding_out(
        name=name,
        classes=names,
        preprocessing=preprocessing,
        augmentation=augmentation,
        train=train,
        test=test,
        seed=seed,
    )


def _part(value: object, key: str, input: Shape) -> ArraySplit:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise DataError(f"{key!r} must be a pair (images, labels), got {_describe(value)}")
    images, labels = _array(value[0], f"{key!r} images"), _array(value[1], f"{key!r} labels")
    channels, height, width = input
    if images.ndim == 3:
        images = images[:, :, :, None]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (height, width, channels):
        expected = f"uint8 [N, {height}, {width}, {channels}] (height, width, channels; values 0 to 255)"
        raise DataError(f"{key!r} images must be {expected}, got {_describe(value[0])}")
    if labels.dtype.kind not in "iu" or labels.shape != (len(images),):
        raise DataError(f"{key!r} labels must be whole numbers [{len(images)}], got {_describe(value[1])}")
    if not len(images):
        raise DataError(f"{key!r} has no images")
    return ArraySplit(images, labels.astype(np.int64))


def _array(value: object, what: str) -> npt.NDArray[Any]:
    try:
        return np.asarray(value)
    except Exception as error:
        raise DataError(f"{what} cannot be made an array: {error}; got {type(value).__name__}") from error


def _class_names(value: object, classes: int) -> tuple[str, ...]:
    if value is None:
        return tuple(str(number) for number in range(classes))
    if not isinstance(value, tuple | list) or not all(isinstance(name, str) for name in value):
        raise DataError(f"'classes' must be a list of names, got {value!r}")
    return tuple(value)


def _preprocessing(values: Mapping[object, object], train: ArraySplit, input: Shape) -> Preprocessing:
    channels = input[0]
    # Uses a histogram of the 256 values, because a float copy of all images would need many times their memory.
    counts = np.zeros((channels, 256), dtype=np.int64)
    for start in range(0, len(train), _IMAGES_PER_CHUNK):
        part = train.images[start : start + _IMAGES_PER_CHUNK]
        counts += [np.bincount(part[..., channel].ravel(), minlength=256) for channel in range(channels)]
    levels = np.arange(256) / 255
    mean = counts @ levels / counts.sum(axis=1)
    std = np.sqrt(np.maximum(counts @ levels**2 / counts.sum(axis=1) - mean**2, 0))
    # A constant channel would be divided by 0.
    std[std < 1e-6] = 1
    return Preprocessing(
        size=input[1:],
        channels=channels,
        mean=_numbers(values["mean"], "mean") if "mean" in values else tuple(mean.tolist()),
        std=_numbers(values["std"], "std") if "std" in values else tuple(std.tolist()),
    )


def _numbers(value: object, key: str) -> tuple[float, ...]:
    try:
        return tuple(np.asarray(value, dtype=np.float64).reshape(-1).tolist())
    except (TypeError, ValueError) as error:
        raise DataError(f"{key!r} must be one number per channel, got {value!r}") from error


def _flip(value: object) -> bool:
    if not isinstance(value, bool):
        raise DataError(f"'flip' must be True or False, got {value!r}")
    return value


def _pad(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise DataError(f"'pad' must be a whole number of pixels, got {value!r}")
    return value


def _describe(value: object) -> str:
    """Describes a value in messages: an array's type and shape, a sequence's length, else the type."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is not None and dtype is not None:
        return f"{type(value).__name__} {dtype} {list(shape)}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return type(value).__name__
