"""The plugin's registries: children of MMEngine's roots, with the scope ``gfl_plugin``.

A config names a type of the plugin with its scope, as ``gfl_plugin.GFLHead``. MMDetection's names keep their meaning.
"""
from mmengine import registry as root


def _child(name: str, parent: root.Registry, location: str) -> root.Registry:
    return root.Registry(name, parent=parent, scope='gfl_plugin', locations=[f'gfl_plugin.{location}'])


MODELS = _child('model', root.MODELS, 'heads')
TASK_UTILS = _child('task util', root.TASK_UTILS, 'assigners')
DATASETS = _child('dataset', root.DATASETS, 'datasets')
HOOKS = _child('hook', root.HOOKS, 'hooks')
METRICS = _child('metric', root.METRICS, 'evaluation')

# Two axes of the head; the third, the assigner, is in TASK_UTILS, where MMDetection looks for it. They are no children
# of MODELS, so a name is looked up in its own axis alone, and a wrong name gets the list of valid ones.
QUALITIES = root.Registry('quality', scope='gfl_plugin')
BOXES = root.Registry('box', scope='gfl_plugin')
