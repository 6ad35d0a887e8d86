"""Everything that this plugin changes in other libraries goes through here, so that it can be undone."""
import sys
from typing import Any, Callable, List

_MISSING = object()
_undo: List[Callable[[], None]] = []


def replace(owner: Any, name: str, value: Any) -> None:
    """Set an attribute of a module or class of another library, and remember what it was."""
    before = vars(owner).get(name, _MISSING)  # not getattr, which unwraps static methods
    setattr(owner, name, value)
    on_undo(lambda: delattr(owner, name) if before is _MISSING else setattr(owner, name, before))


def replace_everywhere(function: Callable, replacement: Callable) -> None:
    """Replace a function of OpenMMLab's packages in every module of theirs that has imported it."""
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith('mm'):
            for name in [name for name, value in vars(module).items() if value is function]:
                replace(module, name, replacement)


def on_undo(restore: Callable[[], None]) -> None:
    """Remember how to undo a change that is more than an attribute."""
    _undo.append(restore)


def undo() -> None:
    """Undo all changes, the last one first."""
    while _undo:
        _undo.pop()()
