"""What a wheel of camfast must be: tagged abi3, free of sources and of this machine's paths, stable in its ABI.

python .ci/check_wheel.py dist/camfast-*.whl [--expect-cuda]
"""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

# What a wheel holds beside the files of the package in the source tree.
BUILT = re.compile(r"^camfast/_C(_cuda)?\.abi3\.so$|^camfast-[\d.]+\.dist-info/")
DATA = {".py", ".typed", ".npz", ".html", ".css", ".js"}
TREE = Path(__file__).resolve().parent.parent
FOREIGN_PATH = re.compile(rb"/(?:home|root|tmp|work|build|Users)/[\w./-]+")


def problems(wheel: Path, expect_cuda: bool) -> list[str]:
    found = []
    if "-cp310-abi3-" not in wheel.name:
        found.append(f"the tag is not cp310-abi3: {wheel.name}")
    with TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]  # folders, in a repaired wheel
        carried = {str(file.relative_to(TREE)) for file in (TREE / "camfast").rglob("*.*") if file.suffix in DATA}
        found += [f"a file that does not belong: {n}" for n in names if n not in carried and not BUILT.match(n)]
        found += [f"missing, does pyproject.toml know of it?: {n}" for n in sorted(carried - set(names))]
        libraries = [n for n in names if n.endswith(".so")]
        wanted = {"camfast/_C.abi3.so"} | ({"camfast/_C_cuda.abi3.so"} if expect_cuda else set())
        found += [f"missing: {n}" for n in sorted(wanted - set(libraries))]
        for name in names:
            paths = {m.group().decode() for m in FOREIGN_PATH.finditer(archive.read(name))}
            found += [f"{name} holds a path of the machine that built it: {p}" for p in sorted(paths)[:3]]
        for name in libraries:
            target = archive.extract(name, folder)
            audit = subprocess.run(["torch-abi-audit", "--check", "both", target], capture_output=True, text=True)
            print(audit.stdout.strip() or audit.stderr.strip())
            if audit.returncode != 0:
                found.append(f"torch-abi-audit refuses {name}")
    return found


if __name__ == "__main__":
    found = problems(Path(sys.argv[1]), "--expect-cuda" in sys.argv)
    print("\n".join(found) if found else f"{sys.argv[1]}: as it should be")
    sys.exit(1 if found else 0)
