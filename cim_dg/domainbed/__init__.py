"""Our algorithms and datasets in DomainBed: the real one, or the stand-in where there is none.

Importing this package registers them, in a DomainBed that is imported already and in one that is imported later, even
where CIM_DG_AUTOLOAD=0 forbids that at start-up.
"""

from cim_dg import autoload

autoload.install(explicit=True)
