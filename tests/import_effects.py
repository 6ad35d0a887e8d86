"""Print what `import gfl_plugin` changes in other libraries, as JSON. To be run in a process of its own."""
import importlib
import json
import logging
import os
import signal
import sys
import types
import warnings

import mmdet.registry
import mmengine
import torch

LIBRARIES = ('torch', 'mmengine', 'mmcv', 'mmdet', 'cv2', 'numpy', 'pycocotools', 'builtins', 'logging', 'random')
# All that the plugin imports of MMDetection. What these imports change is not the plugin's doing.
IMPORTED_TOO = ('mmdet.models', 'mmdet.datasets', 'mmdet.evaluation', 'mmdet.engine', 'mmdet.apis', 'mmengine.infer')


def snapshot(modules):
    """Every attribute of these modules and of their classes, by its dotted name."""
    found = {}
    with warnings.catch_warnings(action='ignore'):  # some attributes are deprecated
        for name in modules:
            found.update(attributes(name, sys.modules[name]))
            for class_name, value in list(vars(sys.modules[name]).items()):
                if isinstance(value, type) and value.__module__ == name:
                    found.update(attributes(f'{name}.{class_name}', value))
    return found


def attributes(owner, value):
    return {f'{owner}.{name}': identity(item) for name, item in list(vars(value).items())
            if not name.startswith('__') and not isinstance(item, types.ModuleType)}


def identity(value):
    """What tells whether an attribute was replaced, or its content changed."""
    if isinstance(value, dict):
        return {repr(key): id(item) for key, item in list(value.items())}
    if isinstance(value, (list, tuple)):
        return [id(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return {id(item) for item in value}
    return repr(value) if isinstance(value, (str, int, float)) else id(value)


def registries():
    """What is registered, and which packages have registries of their own."""
    return {f'{module.__name__}.{name}': dict(types=sorted(value._module_dict), children=sorted(value._children))
            for module in (mmengine.registry.root, mmdet.registry) for name, value in vars(module).items()
            if isinstance(value, mmengine.Registry) and not name.startswith('MMENGINE_')}  # aliases of MMEngine's


def state():
    """What a process has besides attributes of modules."""
    loggers = [logging.getLogger(), *(one for one in logging.Logger.manager.loggerDict.values()
                                      if isinstance(one, logging.Logger) and not one.name.startswith('gfl_plugin'))]
    return {
        'sys.path': list(sys.path), 'sys.meta_path': list(map(repr, sys.meta_path)),
        'sys.path_hooks': list(map(repr, sys.path_hooks)), 'sys.excepthook': repr(sys.excepthook),
        'warnings.filters': list(map(repr, warnings.filters)), 'cwd': os.getcwd(),
        'safe globals': sorted(map(repr, torch.serialization.get_safe_globals())),
        'default dtype': str(torch.get_default_dtype()), 'threads': torch.get_num_threads(),
        'grad': torch.is_grad_enabled(), 'seed': torch.initial_seed(),
        'signals': {number: repr(signal.getsignal(number)) for number in signal.valid_signals()},
        'loggers': {one.name: (one.level, list(map(repr, one.handlers))) for one in loggers},
        **{f'os.environ[{name!r}]': value for name, value in os.environ.items()},
    }


class Compiled(types.ModuleType):
    """Takes the place of mmcv's compiled operators, so that mmdet's models import before the plugin does."""

    def __getattr__(self, name):
        if name.startswith('__'):
            raise AttributeError(name)
        return len


def pretend_mmcv_is_compiled():
    compiled = sys.modules['mmcv._ext'] = Compiled('mmcv._ext')
    compiled.__spec__ = importlib.machinery.ModuleSpec('mmcv._ext', loader=None)


def compare(before, after):
    return sorted(key for key in before.keys() | after.keys() if before.get(key, '') != after.get(key, ''))


def main():
    os.environ.pop('OPENCV_IO_MAX_IMAGE_PIXELS', None)  # the test that starts this process has imported the plugin
    pretend_mmcv_is_compiled()
    for name in IMPORTED_TOO:
        importlib.import_module(name)
    modules = [name for name in sys.modules if name.split('.')[0] in LIBRARIES]
    before = {**snapshot(modules), **registries(), **state()}
    import gfl_plugin
    changed = compare(before, {**snapshot(modules), **registries(), **state()})
    gfl_plugin.compat.uninstall()
    left = compare(before, {**snapshot(modules), **registries(), **state()})
    print('EFFECTS', json.dumps(dict(changed=changed, left=left)))


if __name__ == '__main__':
    main()
