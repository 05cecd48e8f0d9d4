"""Print the lowest version of every dependency that is declared, as constraints for pip; of two bounds the higher."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
lowest: dict[str, list[int]] = {}
for line in sum(project["optional-dependencies"].values(), project["dependencies"]):
    if bound := re.fullmatch(r"([\w-]+)>=([\d.]+)", line):
        name, version = bound[1], [int(part) for part in bound[2].split(".")]
        lowest[name] = max(version, lowest.get(name, []))
print("\n".join(f"{name}=={'.'.join(map(str, version))}" for name, version in sorted(lowest.items())))
