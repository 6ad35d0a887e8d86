"""What exists only because of the age of the stack. It can be deleted the day the stack is healed.

``stack`` says which stack is installed, and whether it was tested. ``ops`` stands in for mmcv's compiled operators if
they are missing, and ``deform_conv`` is one of them. ``vision`` does without a torchvision that is absent or broken.
``packages`` finds installed packages without pkg_resources.
"""


def install_for_tools() -> None:
    """Mend the functions of MMEngine that only the tools of this project need. The import of the plugin leaves them."""
    from . import packages, vision  # they import MMEngine, and this package is there before it is known whether it is
    packages.install()
    vision.install()


def uninstall() -> None:
    """Undo everything that this plugin has changed in other libraries, weights-only loading of checkpoints included.

    The plugin's types stay registered. Modules of mmcv that were imported with the stand-ins keep them.
    """
    from .. import patches
    patches.undo()
