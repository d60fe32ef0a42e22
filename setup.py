"""Maps the repository's folders onto one package, and ships the .pth file that starts `cim_dg.autoload`.

The methods, their hyper-parameters and the comparisons are the repository's top level (algorithms/, hparams/, sweeps/),
where a reader looks for them; installed they are parts of cim_dg. A top-level package `algorithms` in site-packages
would shadow the `algorithms` folder of WILDS' examples, so there must be none, in an editable installation neither.
"""

from pathlib import Path

from setuptools import find_namespace_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel

FOLDERS = {"cim_dg": "cim_dg", **{f"cim_dg.{name}": name for name in ("algorithms", "hparams", "sweeps")}}
PTH = "cim_dg_autoload.pth"


class BuildWithPth(build_py):
    """Puts the .pth file beside the package, which is where the interpreter looks for it."""

    def run(self):
        super().run()
        if not self.editable_mode:
            self.copy_file(PTH, str(Path(self.build_lib) / PTH))

    def get_outputs(self, include_bytecode=True):
        return [*super().get_outputs(include_bytecode), str(Path(self.build_lib) / PTH)]

    def get_source_files(self):
        return [*super().get_source_files(), PTH]


class EditableWithPth(editable_wheel):
    """An editable wheel is made without build_py's files: the .pth file goes into its root."""

    def _run_build_commands(self, dist_name, unpacked_wheel, build_lib, tmp_dir):
        files, mapping = super()._run_build_commands(dist_name, unpacked_wheel, build_lib, tmp_dir)
        self.copy_file(PTH, str(Path(unpacked_wheel) / PTH))
        return files, mapping


packages = list(FOLDERS)
for package, folder in FOLDERS.items():
    packages += [f"{package}.{inner}" for inner in find_namespace_packages(folder)]

setup(
    packages=packages,
    package_dir=FOLDERS,
    package_data={
        "cim_dg": ["py.typed"],
        "cim_dg.hparams": ["*.yaml"],
        "cim_dg.hparams.datasets": ["*.yaml"],
        "cim_dg.hparams.wilds": ["*.yaml"],
        "cim_dg.sweeps": ["*.yaml"],
        "cim_dg.results": ["*.csv", "*.j2"],
    },
    cmdclass={"build_py": BuildWithPth, "editable_wheel": EditableWithPth},
)
