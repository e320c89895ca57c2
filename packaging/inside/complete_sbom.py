"""An SBOM of an environment with what wheels have compiled in: packaging/sbom runs it.

PYTHON packaging/inside/complete_sbom.py SBOM SITE_PACKAGES

PYTHON is one that has cyclonedx-python-lib. qmesh becomes what the SBOM is about. Prints it, or says why it
does not keep to the schema of CycloneDX.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator


def main() -> int:
    """Complete it, and print it if it is valid."""
    sbom = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    about = next(each for each in sbom["components"] if each["name"] == "qmesh")
    sbom["components"].remove(about)
    del about["externalReferences"]  # the wheel's place on this machine
    sbom["metadata"]["component"] = {**about, "type": "application"}
    packages = {each.name: each for each in distributions(path=[sys.argv[2]])}
    for component in sbom["components"]:
        if inside := list(list_compiled(packages[component["name"]], component["bom-ref"])):
            component["components"] = inside
    text = json.dumps(sbom, indent=2, sort_keys=True, ensure_ascii=False)
    if error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        print(f"error: the SBOM is not valid: {error}", file=sys.stderr)
        return 1
    print(text)
    return 0


def list_compiled(package: Distribution, parent: str) -> Iterator[dict[str, Any]]:
    """What one wheel has compiled in, by its SBOMs and by ours, each with a reference of its own."""
    unlisted = json.loads(Path(__file__).with_name("unlisted.json").read_text("utf-8"))
    sboms = {"unlisted": unlisted.get(f"{package.name} {package.version}", {})}
    for file in package.files or []:
        if "sboms" in file.parts:
            sboms[file.stem] = json.loads(Path(str(package.locate_file(file))).read_text("utf-8"))
    for stem, found in sboms.items():
        for number, each in enumerate(found.get("components", [])):
            keys = ("name", "version", "purl", "hashes", "licenses", "copyright")
            kept = {key: each[key] for key in keys if key in each}
            yield {"type": "library", "bom-ref": f"{parent}/{stem}/{number}", **kept}


sys.exit(main())
