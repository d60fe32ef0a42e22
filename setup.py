"""Maps the repository's folders onto one package.

The methods, their hyper-parameters and the comparisons are the repository's top level (algorithms/, hparams/, sweeps/),
where a reader looks for them; installed, they are parts of cim_dg. A top-level package `algorithms` in site-packages
would shadow the `algorithms` folder of WILDS' examples, so there must be none, not even in an editable installation.
startup/build_backend.py adds the start-up files to the wheels.
"""

from setuptools import find_namespace_packages, setup

FOLDERS = {"cim_dg": "cim_dg", **{f"cim_dg.{name}": name for name in ("algorithms", "hparams", "sweeps")}}

packages = list(FOLDERS)
for package, folder in FOLDERS.items():
    packages += [f"{package}.{inner}" for inner in find_namespace_packages(folder)]

setup(
    packages=packages,
    package_dir=FOLDERS,
    package_data={
        "cim_dg": ["py.typed"],
        "cim_dg.commands": ["templates/*.tmpl"],
        "cim_dg.data.sources": ["*.yaml"],
        "cim_dg.hparams": ["*.yaml", "schema.json"],
        "cim_dg.hparams.datasets": ["*.yaml"],
        "cim_dg.hparams.wilds": ["*.yaml", "schema.json"],
        "cim_dg.sweeps": ["*.yaml", "schema.json"],
        "cim_dg.results": ["*.csv", "*.j2"],
    },
)
