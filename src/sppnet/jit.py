"""Compilation by numba, with a cache that asks nothing of the environment, and what stands against it.

Where numba cannot be imported, or NUMBA_DISABLE_JIT is set, functions stay Python: correct, and slow.
"""

import contextlib
import functools
import importlib
import multiprocessing
import os
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch

from sppnet.errors import SppnetError

nb: Any
_import_error: Exception | None = None
try:
    import numba as nb
except Exception as error:  # ImportError, or a numpy or LLVM that does not fit, which raise of all kinds
    _import_error = error
    nb = SimpleNamespace(prange=range, get_num_threads=lambda: 1)


def jit(**options: Any) -> Callable[[Any], Any]:
    """A decorator: numba's `njit`, cached where a folder for it can be written. Indices are not checked."""

    def decorate(function: Any) -> Any:
        if problem():
            return function
        compiled = nb.njit(
            nogil=True, boundscheck=False, error_model="numpy", no_cfunc_wrapper=True, **options
        )(function)
        with contextlib.suppress(Exception):  # what numba keeps its cache in is not public
            compiled._cache = _cache_class()(function)
        return compiled

    return decorate


compiled = jit()
compiled_parallel = jit(parallel=True)
SUM_IN_ANY_ORDER = {"reassoc", "contract", "nsz"}
"""Sums may be added up in any order, a few numbers at a time: always the same one on one machine."""

inner = jit(no_cpython_wrapper=True)
"""For functions that only compiled ones call, which compile faster. Called from Python one would crash the
process: tests/test_jit.py sees to it that none is."""
inner_sum = jit(no_cpython_wrapper=True, fastmath=SUM_IN_ANY_ORDER)


THREAD_POOLS = {
    "default": "", "threadsafe": "", "forksafe": "", "safe": "tbbpool", "tbb": "tbbpool", "omp": "omppool",
    "workqueue": "workqueue",
}  # fmt: skip
"""What numba takes threads from, by what it is asked for; "" where it chooses among several."""


def problem() -> str | None:
    """Why functions are not compiled in this process; None if they are."""
    if _import_error is not None:
        return f"numba cannot be imported ({type(_import_error).__name__}: {_import_error})"
    return "NUMBA_DISABLE_JIT is set" if nb.config.DISABLE_JIT else _layer_problem()


@functools.cache
def _layer_problem() -> str | None:
    """Why threads cannot start; asked without starting them, which would be lost in a fork."""
    asked = str(nb.config.THREADING_LAYER).lower()
    pools = THREAD_POOLS.get(asked)
    try:
        if pools is None:
            raise ImportError(f"known are {', '.join(THREAD_POOLS)}")
        if pools == "tbbpool":
            importlib.import_module("numba.np.ufunc.parallel")._check_tbb_version_compatible()
        if pools:
            importlib.import_module(f"numba.np.ufunc.{pools}")
    except ImportError as error:
        return f"NUMBA_THREADING_LAYER asks for {asked}, which is not there ({error}); leave it away"
    return None


def cache_folder(compiled: Any) -> str | None:
    """Where the machine code of a compiled function is kept; None if it is compiled in every process."""
    path = getattr(getattr(compiled, "_cache", None), "cache_path", None)
    return None if path is None else str(path)


# --- threads and forks ---------------------------------------------------------------------------

_lock = threading.Lock()
_state = SimpleNamespace(forked=False)


def _note_fork() -> None:
    from numba.np.ufunc import parallel

    _state.forked = bool(parallel._is_initialized)


if not _import_error and hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


def lost_threads() -> str | None:
    """Why parallel kernels cannot run in this process although they are compiled; None if they can."""
    if not _state.forked:
        return None
    return (
        "this process was forked from one in which compiled kernels had run, and their threads do not "
        "survive a fork; processes started by 'spawn' or 'forkserver' have no such limit"
    )


@contextlib.contextmanager
def kernel_running() -> Iterator[None]:
    """Around every call of a numba kernel that may be parallel.

    Not every threading layer of numba may be entered by two threads at once; and the first launch sets
    what `_process_settings_kept` puts back.
    Raises SppnetError in a forked process, which OpenMP would kill.
    """
    if reason := lost_threads():
        raise SppnetError(reason)
    with _lock, _process_settings_kept():
        yield


def thread_count() -> int:
    """How many threads parallel kernels take; asking numba starts them."""
    with _process_settings_kept():
        return int(nb.get_num_threads())


@contextlib.contextmanager
def _process_settings_kept() -> Iterator[None]:
    """What the start of numba's threads changes: OpenMP's threads, by which torch splits its sums, and
    multiprocessing's start method, which the program could not choose any more."""
    threads = torch.get_num_threads()
    had_method = _has_start_method()
    try:
        yield
    finally:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        if not had_method and _has_start_method():
            multiprocessing.set_start_method(None, force=True)


def _has_start_method() -> bool:
    return bool(multiprocessing.get_start_method(allow_none=True))


# --- the cache -----------------------------------------------------------------------------------


@functools.cache
def _cache_class() -> Any:
    """numba's cache of a function, in the first folder that can be written.

    In numba's order: NUMBA_CACHE_DIR, beside the source, the user's cache folder if there is one; and then
    the system's folder for temporary files. An entry that cannot be read or written costs a compilation.
    """
    caching: Any = importlib.import_module("numba.core.caching")
    own_home = os.path.isabs(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~"))

    class TemporaryLocator(caching._SourceFileBackedLocatorMixin, caching._CacheLocator):  # type: ignore[misc]
        def __init__(self, function: Any, file: str) -> None:
            self._py_file, self._lineno = file, function.__code__.co_firstlineno

        def get_cache_path(self) -> str:
            return os.path.join(
                private_folder(), "kernels", str(self.get_suitable_cache_subpath(self._py_file))
            )

    class Place(caching.FunctionCache._impl_class):  # type: ignore[misc]
        _locator_classes = (
            *(
                locator
                for locator in caching.FunctionCache._impl_class._locator_classes
                if own_home or "UserWide" not in locator.__name__
            ),
            TemporaryLocator,
        )

    class Cache(caching.FunctionCache):  # type: ignore[misc]
        _impl_class = Place

        def load_overload(self, *args: Any) -> Any:
            try:
                return super().load_overload(*args)
            except Exception:  # cut off by a full disk or a killed process
                return None

        def save_overload(self, *args: Any) -> None:
            with contextlib.suppress(Exception):  # a full disk, or what was cut off when it was full
                try:
                    super().save_overload(*args)
                except Exception:
                    self.flush()  # an empty index in place of one that cannot be read
                    super().save_overload(*args)

    return Cache


def private_folder() -> str:
    """A folder for temporary files that nobody else can write to: what is in the cache will be run.

    Raises OSError where there is none.
    """
    user = os.getuid() if hasattr(os, "getuid") else 0
    path = os.path.join(tempfile.gettempdir(), f"sppnet-{user}")
    os.makedirs(path, mode=0o700, exist_ok=True)
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or (
        hasattr(os, "getuid") and (found.st_uid != user or found.st_mode & 0o022)
    ):
        raise PermissionError(f"{path} belongs to somebody else")
    return path
