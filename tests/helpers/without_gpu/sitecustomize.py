"""On PYTHONPATH, this lets a harness that supports GPUs alone run on a CPU, for the tests: `.cuda()` does nothing.

Python imports a module of this name at start-up. PyTorch is patched when it is imported, so nothing else is slower.
"""

import sys
from importlib.machinery import PathFinder


class _AfterTorch:
    def find_spec(self, name, path=None, target=None):
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path, target)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            if not module.cuda.is_available():
                module.Tensor.cuda = module.nn.Module.cuda = lambda self, *args, **kwargs: self

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, _AfterTorch())
