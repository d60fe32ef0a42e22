"""On PYTHONPATH, this lets launchers find one GPU where there is none, for the tests; jobs then compute on the CPU.

Python imports a module of this name at start-up.
"""

from cim_dg.runtime import devices

devices.gpus = lambda: ["0"]
