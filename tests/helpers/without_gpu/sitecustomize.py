"""On PYTHONPATH, this lets a harness that was written for GPU servers run on a small CPU, for the tests.

`.cuda()` does nothing, and data loaders start no processes. Python imports a module of this name at start-up: PyTorch
is patched when it is imported, so nothing else is slower.
"""

import functools
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
            _shrink(module)

        spec.loader.exec_module = exec_module
        return spec


def _shrink(torch):
    from torch.utils.data import DataLoader

    construct = DataLoader.__init__

    @functools.wraps(construct)
    def init(self, *args, num_workers=0, **kwargs):
        construct(self, *args, num_workers=0, **kwargs)

    DataLoader.__init__ = init
    if not torch.cuda.is_available():
        torch.Tensor.cuda = torch.nn.Module.cuda = lambda self, *args, **kwargs: self


sys.meta_path.insert(0, _AfterTorch())
