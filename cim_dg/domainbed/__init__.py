"""Our algorithms and datasets in DomainBed: the real one, or the stand-in where there is none."""
